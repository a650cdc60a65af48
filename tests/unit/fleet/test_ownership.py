"""Who owns what, read from lease buckets."""

from services.fleet.domain.ownership import ownership, summary


def test_leases_are_grouped_by_holder_in_natural_order():
    held = ownership(
        {
            "leases_shards": {
                "m.greeks-1": b"{}",
                "p.10": b'{"member": "greeks-1"}',
                "p.2": b'{"member": "greeks-1"}',
                "p.3": b'{"member": "greeks-2"}',
            },
            "leases_accounts": {"p.sim1": b'{"member": "ingest-2"}'},
            "leases_orders": {"p.sim1": b'{"member": "orders-1"}'},
        }
    )

    assert held == {
        "greeks-1": ("shard 2", "shard 10"),
        "greeks-2": ("shard 3",),
        "ingest-2": ("account sim1",),
        "orders-1": ("orders sim1",),
    }


def test_summary_reads_like_a_sentence():
    assert summary(("shard 2", "shard 10")) == "shards 2 10"
    assert summary(("account sim1",)) == "account sim1"
    assert summary(("orders sim1", "orders sim2")) == "orders sim1 sim2"
    assert summary(("leader leader",)) == "leader"
    assert summary(()) == ""
