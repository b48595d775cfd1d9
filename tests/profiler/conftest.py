"""An engine whose steps take known times on a clock of its own, and a profile to store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edgedec.architecture import (
    Architecture,
    Attention,
    Embedding,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Stack,
    Tokens,
)
from edgedec.contracts import Capabilities, Rows, Want
from edgedec.profiler.device import Fingerprint
from edgedec.profiler.store import Key, Profile
from edgedec.runtimes.fake import Fake

LAYERS, VOCAB = 4, 16


@dataclass
class Step:
    """What the engine was asked for: numbers of rows, of rows with logits, length of past."""

    rows: int
    heads: int
    past: int
    parents: list[int]
    keep: list[int] = field(default_factory=list)


class Timed:
    """The fake runtime with times: `layers(rows, past)` and `head(rows)` in seconds, and `slowness`
    by the time on the clock."""

    def __init__(
        self,
        context: int = 4096,
        row_widths: tuple[int, ...] | None = None,
        layers: Callable[[int, int], float] = lambda n, past: 1e-3 + 1e-4 * n + 1e-7 * n * past,
        head: Callable[[int], float] = lambda n: 2e-4 + 3e-5 * n,
        slowness: Callable[[float], float] = lambda now: 1.0,
        *,
        encoder: bool = False,
    ) -> None:
        self.fake = Fake(
            vocab=VOCAB,
            layers=LAYERS,
            context=context,
            row_widths=row_widths,
            max_rows=min(512, context),
            encoder=encoder,
        )
        self.layers, self.head, self.slowness = layers, head, slowness
        self.now = 100.0
        self.steps: list[Step] = []
        self.model = architecture(context, encoder=encoder)

    @property
    def capabilities(self) -> Capabilities:
        return self.fake.capabilities

    def clock(self) -> float:
        return self.now

    def steady(self) -> bool:
        return True

    def session(self) -> Any:
        return TimedSession(self, self.fake.session())

    def learn(self, vectors: Any) -> int:
        raise NotImplementedError

    def close(self) -> None:
        self.fake.close()

    def whole(self, rows: int, past: int) -> float:
        return self.layers(rows, past) + self.head(rows)


class TimedSession:
    def __init__(self, engine: Timed, session: Any) -> None:
        self._engine, self._session = engine, session

    @property
    def tokens(self) -> Sequence[int]:
        return self._session.tokens  # type: ignore[no-any-return]

    def step(self, rows: Rows, layers: Any = None, want: Want | None = None) -> Any:
        engine, count, past = self._engine, len(rows.tokens), len(self.tokens)
        heads = count if want is None or want.logits is None else len(want.logits)
        engine.steps.append(Step(count, heads, past, np.asarray(rows.parents).tolist()))
        seconds = engine.layers(count, past) + (engine.head(heads) if heads else 0.0)
        engine.now += seconds * engine.slowness(engine.now)
        return self._session.step(rows, layers, want)

    def keep(self, leaves: Sequence[int]) -> Any:
        self._engine.steps[-1].keep = list(leaves)
        return self._session.keep(leaves)

    @property
    def source_rows(self) -> int:
        return self._session.source_rows  # type: ignore[no-any-return]

    def encode(self, source: Any) -> None:
        self._session.encode(source)

    def fork(self) -> TimedSession:
        return TimedSession(self._engine, self._session.fork())


def architecture(context: int, *, encoder: bool = False) -> Architecture:
    layer = Layer(
        self_attention=Attention(heads=1, kv_heads=1, head_dim=8, scale=1.0),
        mlp=Mlp(width=16, activation="silu", gated=True),
        norm=Norm(kind="rms", eps=1e-5),
    )
    if encoder:
        layer = replace(layer, cross_attention=layer.self_attention)
    seeing = replace(
        layer, self_attention=replace(layer.self_attention, causal=False), cross_attention=None
    )
    return Architecture(
        family="llama",
        embed=Embedding(vocab=VOCAB, dim=8),
        decoder=Stack(layers=(layer,) * LAYERS),
        head=Head(tied=True),
        tokens=Tokens(eos=()),
        limits=Limits(context=context, source=64 if encoder else None),
        encoder=Stack(layers=(seeing,)) if encoder else None,
    )


@pytest.fixture
def timed() -> type[Timed]:
    return Timed


@pytest.fixture
def stored() -> Profile:
    """A profile as it might be found in the cache."""
    return Profile(
        schema=1,
        key=Key(
            fingerprint=Fingerprint(
                processor="Some CPU (1/2/3)",
                isa="avx2",
                cores=4,
                processors=8,
                memory_gib=16,
                system="Linux x86_64",
            ),
            runtime="native",
            version="0.1.0 deadbeef",
            device="cpu",
            bundle="ab" * 32,
            threads=4,
            kv_type="fp16",
        ),
        effort="full",
        made="2026-11-26",
        rows=(1, 4, 64),
        pasts=(32, 128),
        layers=((1e-3, 2e-3, 8e-3), (1.5e-3, 2.5e-3, 9e-3)),
        head=(1e-4, 2e-4, 5e-4),
        depth=4,
        spread={1: (1.5e-3, 1.7e-3)},
        spread_past=128,
        rounds=20,
        rejected=1,
        seconds=3.5,
        weight_bytes=30_000_000,
        bandwidth=30e9,
        draft_ms={"prompt_lookup": 0.02},
    )
