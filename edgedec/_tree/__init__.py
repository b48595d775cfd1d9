"""The hot part of drafting: C where it was compiled, else its twin in Python.

    Suffixes      the longest earlier occurrence of a text's end      suffixes.py    suffixes.c
    Successors    what followed one to four tokens                    successors.py  successors.c
    Planner       proposals merged, calibrated, cut to what pays      planner.py     planner.c
    follow, draw  the accepted path; the Gumbel draw                  walk.py        noise.c
    lay           the rows of a step                                  walk.py        binding.c

The Python files say what each piece means; the C files in `csrc/` do the same, faster (copies.c is
the second half of suffixes.py). Tests hold the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .sizes import MAX_NODES, MAX_SOURCES, WIDTH

if TYPE_CHECKING:
    from .planner import Planner
    from .successors import Successors
    from .suffixes import Suffixes
    from .walk import draw, follow, lay

    COMPILED: bool
else:
    try:
        from ._fast import Planner, Successors, Suffixes, draw, follow, lay

        COMPILED = True
    except ImportError:
        from .planner import Planner
        from .successors import Successors
        from .suffixes import Suffixes
        from .walk import draw, follow, lay

        COMPILED = False

__all__ = [
    "COMPILED",
    "MAX_NODES",
    "MAX_SOURCES",
    "WIDTH",
    "Planner",
    "Successors",
    "Suffixes",
    "draw",
    "follow",
    "lay",
]
