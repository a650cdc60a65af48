"""Starts the gateway: `python -m services.gateway`."""

import sys

from libs.common import lifecycle
from libs.common.settings import SettingsError, load
from services.gateway import app
from services.gateway.settings import GatewaySettings


def main() -> int:
    """Read the settings, run, and give the exit status."""
    try:
        settings = load(GatewaySettings)
    except SettingsError as error:
        print(f"gateway: {error}", file=sys.stderr)  # noqa: T201  # Logging is configured by settings.
        return lifecycle.EXIT_SETTINGS
    return lifecycle.run("gateway", settings, lambda life: app.serve(settings, life))


if __name__ == "__main__":
    sys.exit(main())
