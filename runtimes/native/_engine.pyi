"""The C engine; see edgedec.h. Arrays are contiguous: int32, float32, or uint8 for `visible`."""

from typing import Any

class Refused(ValueError): ...

class Model:
    isa: str
    def __new__(cls, spec: bytes, data: Any, isa: str | None, threads: int) -> Model: ...

class Session:
    def __new__(cls, model: Model, kv_type: int, capacity: int) -> Session: ...
    def step(
        self,
        trunk: int,
        living: int,
        dim: int,
        handles: Any,
        positions: Any,
        visible: Any | None,
        tokens: Any | None,
        vectors: Any | None,
        learned: Any | None,
        ranges: Any,
        head_rows: Any,
        hidden_layers: Any,
        hidden: Any,
        /,
    ) -> None: ...
    def logits(self, line: int, out: Any, /) -> None: ...
    def argmax(self, out: Any, /) -> None: ...
    def topk(self, k: int, ids: Any, values: Any, /) -> None: ...
    def move(self, source: Any, target: Any, /) -> None: ...
    def get(self, count: int, /) -> bytes: ...
    def set(self, positions: Any, rows: Any, /) -> None: ...

def isas() -> list[str]: ...
