"""Progress bars on stderr, one for each stage of a long command. Knows nothing of the stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def bars(stages: Mapping[str, str]) -> Iterator[Callable[[str, float], None]]:
    """Tell what is given here a stage and the share of it that is done; `stages` has their texts.

    Nothing is drawn where stderr is no terminal.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda stage, share: None
        return
    with Progress(console=console, transient=True) as shown:
        tasks: dict[str, Any] = {}

        def tell(stage: str, share: float) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stages[stage], total=1.0)
            shown.update(tasks[stage], completed=share)

        yield tell
