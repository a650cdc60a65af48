"""How long to wait before trying again."""

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Exponential delays with full jitter and a ceiling.

    Full jitter (a delay drawn evenly between half the step and the step) keeps a fleet that lost
    the same server from returning in one wave.

    Attributes:
        first_seconds: The step of the first delay.
        ceiling_seconds: No step grows beyond this.
        factor: How much a step grows with each delay.
        rng: The source of jitter; seed it in tests.
    """

    first_seconds: float = 0.5
    ceiling_seconds: float = 30.0
    factor: float = 2.0
    rng: random.Random = field(default_factory=random.Random)
    _attempts: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.first_seconds <= 0 or self.ceiling_seconds < self.first_seconds:
            raise ValueError("a backoff needs 0 < first_seconds <= ceiling_seconds")
        if self.factor < 1:
            raise ValueError("a backoff needs a factor of at least 1")

    @property
    def attempts(self) -> int:
        """How many delays were drawn since the last reset."""
        return self._attempts

    def next_seconds(self) -> float:
        """Draw the next delay, between half and all of the current step."""
        # min() inside the exponent's reach: factor ** attempts overflows for a service that has
        # been failing for days.
        step = self.first_seconds
        for _ in range(self._attempts):
            step *= self.factor
            if step >= self.ceiling_seconds:
                step = self.ceiling_seconds
                break
        self._attempts = min(self._attempts + 1, 1_000)
        return self.rng.uniform(step / 2, step)

    def reset(self) -> None:
        """Start again at the first step: call it after a success."""
        self._attempts = 0
