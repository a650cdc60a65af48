"""Pure rules of the gateway: no I/O, no event loop, no clock of their own."""
