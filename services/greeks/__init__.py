"""greeks: turns raw Kite frames into ticks with implied volatility and Greeks.

Subjects in: `md.frame.v1.<shard>.<account>` of the shards it leases (stream `MD_FRAMES`).
Subjects out: `md.tick.v1.<underlying>` (one JSON line per instrument and batch),
`md.last.v1.<underlying>.<token>` (last value), `md.forward.v1.<underlying>.<expiry>`,
`md.chain.v1.<underlying>.<expiry>` and `md.vol.v1.<underlying>.<expiry>` (chain, volatility curve),
`md.bar.v1.<underlying>.1s` (one-second bars of the underlying).
Requests: `rpc.explain.v1` (any worker) and `rpc.explain.v1.<shard>` (the shard's owner).
State: in memory only, rebuilt from the last frames of a shard when it changes hands.
Scaling: replicas share the shards by lease, up to one replica per shard (16 by default). An
underlying never spans two shards, so its index, futures and options meet in one process.
"""
