"""Runs a revision's SQL statement by statement."""

from alembic import op


def run(script: str) -> None:
    """Run the statements of a script; each but the last ends with `;` and a line break."""
    # asyncpg prepares every statement, and a prepared statement holds one command.
    for statement in script.split(";\n"):
        if statement.strip():
            op.execute(statement)
