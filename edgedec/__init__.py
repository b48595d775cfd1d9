"""edgedec: text generation on the device in front of you.

>>> import edgedec
>>> edgedec.load("stories").generate("Once upon a time").text

`load` opens a bundle, `generate` is `load` and one generation in a single call. Everything else
is imported only when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgedec import compiled

if TYPE_CHECKING:
    from edgedec.api import Cancel, Chunk, Generation, Model, Score, generate, load

__version__ = "0.1.0"
__all__ = ["Cancel", "Chunk", "Generation", "Model", "Score", "__version__", "generate", "load"]

compiled.choose()


def __getattr__(name: str) -> Any:
    if name in __all__:
        from edgedec import api

        return getattr(api, name)
    raise AttributeError(f"module 'edgedec' has no attribute {name!r}")
