"""The database schema, as a chain of alembic revisions."""
