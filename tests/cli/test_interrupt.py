"""The first Ctrl-C or kill is a wish, the second an order; afterwards all is as it was."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from edgedec.cli import _interrupt
from edgedec.generation import Cancel


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_a_wish_and_the_second_an_order(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    cancel = Cancel()
    with pytest.raises(KeyboardInterrupt), _interrupt.stopping(cancel):
        assert not cancel.is_set
        os.kill(os.getpid(), number)
        assert cancel.is_set
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_other_threads_hear_no_signals() -> None:
    cancel, done = Cancel(), list[bool]()

    def work() -> None:
        with _interrupt.stopping(cancel):
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
