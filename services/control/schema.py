"""Brings the database schema up to date before anything reads it."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config

import migrations
from libs.common import logs
from libs.common.database import Database
from libs.common.settings import DatabaseSettings

log = logs.get_logger(__name__)


def upgrade(database_url: str) -> None:
    """Run the missing revisions; blocks, and another process that does the same waits for it.

    Args:
        database_url: `postgresql://…`
    """
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["database_url"] = database_url
    command.upgrade(config, "head")


async def migrate(settings: DatabaseSettings, database: Database, stop: asyncio.Event) -> bool:
    """Wait for PostgreSQL and run the missing revisions; False if the process should stop first."""
    if not await database.until_available(stop):
        return False
    # alembic is synchronous and brings its own event loop, so it gets a thread.
    await asyncio.to_thread(upgrade, settings.database_url.get_secret_value())
    log.info("schema.current")
    return True
