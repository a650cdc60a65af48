"""Starts the control process: `python -m services.control`."""

import sys

from libs.common import lifecycle
from libs.common.settings import SettingsError, load
from services.control import app
from services.control.settings import ControlSettings


def main() -> int:
    """Read the settings, run, and give the exit status."""
    try:
        settings = load(ControlSettings)
    except SettingsError as error:
        print(f"control: {error}", file=sys.stderr)  # noqa: T201  # Logging is configured by settings.
        return lifecycle.EXIT_SETTINGS
    return lifecycle.run("control", settings, lambda life: app.serve(settings, life))


if __name__ == "__main__":
    sys.exit(main())
