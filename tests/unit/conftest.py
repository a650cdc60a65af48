"""Property tests judge what code does, not how long a busy machine takes for it."""

from hypothesis import HealthCheck, settings

# By default Hypothesis fails a case above 200 ms, and a strategy that draws slowly.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
