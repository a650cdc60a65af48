"""Starts the greeks process: `python -m services.greeks`."""

import sys

from libs.common import lifecycle
from libs.common.settings import SettingsError, load
from services.greeks import app
from services.greeks.settings import GreeksSettings


def main() -> int:
    """Read the settings, run, and give the exit status."""
    try:
        settings = load(GreeksSettings)
    except SettingsError as error:
        print(f"greeks: {error}", file=sys.stderr)  # noqa: T201  # Logging is configured by settings.
        return lifecycle.EXIT_SETTINGS
    return lifecycle.run("greeks", settings, lambda life: app.serve(settings, life))


if __name__ == "__main__":
    sys.exit(main())
