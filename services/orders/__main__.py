"""Starts the orders process: `python -m services.orders`."""

import sys

from libs.common import lifecycle
from libs.common.settings import SettingsError, load
from services.orders import app
from services.orders.settings import OrdersSettings


def main() -> int:
    """Read the settings, run, and give the exit status."""
    try:
        settings = load(OrdersSettings)
    except SettingsError as error:
        print(f"orders: {error}", file=sys.stderr)  # noqa: T201  # Logging is configured by settings.
        return lifecycle.EXIT_SETTINGS
    return lifecycle.run("orders", settings, lambda life: app.serve(settings, life))


if __name__ == "__main__":
    sys.exit(main())
