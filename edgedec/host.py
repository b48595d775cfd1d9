"""The only door from a drafter to a model: scratch rows in the session that decodes.

It cannot keep a row, so a drafter cannot change the text. It knows no drafter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgedec.architecture import Architecture
from edgedec.contracts import Capabilities, Engine, Layers, Rows, Session, StepResult, Want
from edgedec.text import Text


class Scratch:
    """The `Host` of one session. `rows` counts the scratch rows stepped since the last keep."""

    def __init__(
        self,
        session: Session,
        architecture: Architecture,
        capabilities: Capabilities,
        open_engine: Callable[[str], Engine],
        data: Callable[[str], Path | None] = lambda strategy: None,
        text: Text | None = None,
    ) -> None:
        self.architecture = architecture
        self.text = text
        self.capabilities = capabilities
        self.rows = 0
        self._session = session
        self._open_engine, self._data = open_engine, data
        self._engines: list[Engine] = []

    def data(self, strategy: str) -> Path | None:
        """The bundle's file for a strategy, if there is one."""
        return self._data(strategy)

    def step(
        self, rows: Rows, layers: Layers | None = None, want: Want | None = None
    ) -> StepResult:
        """Scratch rows in the session that decodes."""
        result = self._session.step(rows, layers, want)
        self.rows += len(rows.tokens)
        return result

    def resume(
        self, handles: Sequence[int], layers: Layers, want: Want | None = None
    ) -> StepResult:
        """Run scratch rows through further layers."""
        return self._session.resume(handles, layers, want)

    def load(self, bundle: str) -> Engine:
        """Open a draft model, on the same device."""
        engine = self._open_engine(bundle)
        self._engines.append(engine)
        return engine

    def close(self) -> None:
        """Give the weights of all draft models back."""
        while self._engines:
            self._engines.pop().close()
