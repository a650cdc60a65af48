"""How alembic reaches the database: asyncpg, one lock, one transaction for all revisions."""

import asyncio

from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

# Two control processes may start at once; the second waits here and finds nothing left to do.
MIGRATION_LOCK = 0x7469636B


def migrate(connection: Connection) -> None:
    """Run the revisions that the database does not have yet."""
    context.configure(connection=connection, transaction_per_migration=False)
    with context.begin_transaction():
        connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
        context.run_migrations()


async def main() -> None:
    """Connect and migrate."""
    url = context.config.attributes["database_url"].replace("postgres://", "postgresql://", 1)
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=pool.NullPool
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
            await connection.commit()
    finally:
        await engine.dispose()


asyncio.run(main())
