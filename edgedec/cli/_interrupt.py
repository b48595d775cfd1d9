"""Ctrl-C and a polite kill as requests to stop, not as accidents.

Knows nothing about what is being stopped.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from edgedec.generation import Cancel


@contextmanager
def stopping(cancel: Cancel) -> Iterator[None]:
    """Within, the first Ctrl-C or SIGTERM sets `cancel`; a second one raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        if cancel.is_set:
            raise KeyboardInterrupt
        cancel.set()

    before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
