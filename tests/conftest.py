"""What holds for every test: no property is judged by how fast a machine happens to be."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "tickfleet", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("tickfleet")
