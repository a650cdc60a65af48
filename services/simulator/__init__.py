"""A Kite Connect look-alike: login, REST, orders and WebSocket over a seeded option market.

It is the fleet's feed in demos and outside market hours, and its opponent in tests: faults can be
ordered over `/sim/faults`. It speaks to the unmodified `kiteconnect` package and knows nothing of
NATS. One process serves any number of accounts; it does not scale out, because several of them
would be several exchanges.
"""
