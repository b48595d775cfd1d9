"""A clock that can be held: what is not to count is taken out, what is only known is put in."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType


class Stopwatch:
    """Called, it gives seconds. While it is entered (`with watch:`) it stands still."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._excluded = self._held = 0.0

    def __call__(self) -> float:
        """Seconds, without those that were held back and with those that were added."""
        return self._clock() - self._excluded

    def add(self, seconds: float) -> None:
        """Let time pass that nobody waited for."""
        self._excluded -= seconds

    def __enter__(self) -> None:
        self._held = self._clock()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._excluded += self._clock() - self._held
