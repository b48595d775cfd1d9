"""Ctrl-C as a request to stop, not as an accident.

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
    """Within, the first Ctrl-C sets `cancel`; a second one raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        if cancel.is_set:
            raise KeyboardInterrupt
        cancel.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
