"""When to start Envoy again after it went away. Pure: the supervisor measures the time and sleeps."""

from __future__ import annotations


class Backoff:
    """Exponential back-off: `first`, `first * factor`, ... up to `limit` seconds.

    A run of at least `healthy_after` seconds makes the next exit the first one again, so that a single crash after
    hours of work costs next to nothing while a crash loop is slowed down.
    """

    __slots__ = ("_exits", "factor", "first", "healthy_after", "limit")

    def __init__(
        self, first: float = 0.05, factor: float = 2.0, limit: float = 30.0, healthy_after: float = 10.0
    ) -> None:
        if first <= 0 or factor < 1 or limit < first:
            raise ValueError(f"back-off needs 0 < first <= limit and factor >= 1, not {first}, {limit}, {factor}")
        self.first = first
        self.factor = factor
        self.limit = limit
        self.healthy_after = healthy_after
        self._exits = 0

    def forget(self) -> None:
        """The next exit is the first one again."""
        self._exits = 0

    def exited(self, ran_for: float) -> float:
        """Seconds to wait before the next start, after a run of `ran_for` seconds."""
        self._exits = 1 if ran_for >= self.healthy_after else self._exits + 1
        # The exponent is bounded by the limit long before a float overflows.
        delay = self.first
        for _ in range(self._exits - 1):
            delay *= self.factor
            if delay >= self.limit:
                return self.limit
        return delay
