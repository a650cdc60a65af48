"""Starts the simulator: `python -m services.simulator`."""

import sys

from libs.common import lifecycle
from libs.common.settings import SettingsError, load
from services.simulator import app
from services.simulator.settings import SimulatorSettings


def main() -> int:
    """Read the settings, run, and give the exit status."""
    try:
        settings = load(SimulatorSettings)
    except SettingsError as error:
        print(f"simulator: {error}", file=sys.stderr)  # noqa: T201  # Logging needs settings.
        return lifecycle.EXIT_SETTINGS
    return lifecycle.run("simulator", settings, lambda life: app.serve(settings, life))


if __name__ == "__main__":
    sys.exit(main())
