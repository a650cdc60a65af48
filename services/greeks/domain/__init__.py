"""Pure option mathematics: prices in, volatilities and Greeks out; no I/O and no clock."""
