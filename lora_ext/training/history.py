"""The loss curve in bounded memory."""

from __future__ import annotations

MOST = 1000  # points; more than a chart has pixels
SMOOTHING = 0.05  # weight of the newest loss in the running mean; noise needs dozens of steps to average out


class LossHistory:
    """Losses by step. When full, every second point goes and from then on only every second one is kept."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._every = 1
        self._seen = 0
        self._points: list[tuple[int, float]] = []
        self.mean: float | None = None
        """Exponential running mean of all losses, kept or not."""

    def add(self, step: int, loss: float) -> None:
        """Take one reading; steps must rise."""
        self.mean = loss if self.mean is None else self.mean + SMOOTHING * (loss - self.mean)
        if self._seen % self._every == 0:
            self._points.append((step, loss))
        self._seen += 1
        if len(self._points) > self._most:
            self._points = self._points[::2]
            self._every *= 2

    def after(self, step: int) -> list[tuple[int, float]]:
        """The kept points later than `step`."""
        return [p for p in self._points if p[0] > step]
