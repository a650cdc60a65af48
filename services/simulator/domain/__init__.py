"""The pure part of the simulator: the market, its clock, accounts, limits and faults as values."""
