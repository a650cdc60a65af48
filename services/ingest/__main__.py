"""Starts the ingest process: `python -m services.ingest`."""

import sys

from libs.common import lifecycle
from libs.common.settings import SettingsError, load
from services.ingest import app
from services.ingest.settings import IngestSettings


def main() -> int:
    """Read the settings, run, and give the exit status."""
    try:
        settings = load(IngestSettings)
    except SettingsError as error:
        print(f"ingest: {error}", file=sys.stderr)  # noqa: T201  # Logging is configured by settings.
        return lifecycle.EXIT_SETTINGS
    return lifecycle.run("ingest", settings, lambda life: app.serve(settings, life))


if __name__ == "__main__":
    sys.exit(main())
