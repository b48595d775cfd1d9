"""The loop with one drafter, as the tests run it: on the pretend model, with made-up costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from edgedec import drafting
from edgedec.accept import Rule
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
from edgedec.contracts import Drafter, Engine, Needs, Rows, Session
from edgedec.costs import Costs, flat
from edgedec.decode import Loop, Tally
from edgedec.host import Files, Scratch
from edgedec.plan import Planner
from edgedec.policies import BEST
from edgedec.runtimes.fake import Fake, FakeSession

VOCAB, CONTEXT = 24, 64


def architecture(
    vocab: int = VOCAB, context: int = CONTEXT, *, encoder: bool = False
) -> Architecture:
    layer = Layer(
        self_attention=Attention(heads=1, kv_heads=1, head_dim=16, scale=1.0),
        mlp=Mlp(width=16, activation="silu", gated=True),
        norm=Norm(kind="rms", eps=1e-5),
    )
    if encoder:
        layer = replace(layer, cross_attention=layer.self_attention)
    seeing = replace(
        layer, self_attention=replace(layer.self_attention, causal=False), cross_attention=None
    )
    return Architecture(
        family="fake",
        embed=Embedding(vocab=vocab, dim=16),
        decoder=Stack(layers=(layer,) * 4),
        head=Head(tied=True),
        tokens=Tokens(eos=(1,)),
        limits=Limits(context=context),
        encoder=Stack(layers=(seeing,)) if encoder else None,
    )


def fake(**given: object) -> Fake:
    return Fake(**{"vocab": VOCAB, "context": CONTEXT, "eos": (1,), **given})


TRAINED = [
    part.name
    for name in drafting.names()
    if name != drafting.AUTO
    for part in drafting.choose(name, {"bundle": "x"} if name == "draft_model" else {}).parts
    if getattr(part.strategy, "trained", False)
]
"""The strategies that need a part of their own in the bundle."""


class Counting(FakeSession):
    """A session that counts the rows stepped."""

    rows = 0

    def step(self, rows: Rows, *args: object, **given: object) -> object:
        self.rows += len(rows.tokens)
        return super().step(rows, *args, **given)


@dataclass
class Run:
    tokens: list[int]
    tally: Tally


def drafted(
    engine: Engine,
    session: Session,
    drafters: Sequence[Drafter],
    needs: Needs | None = None,
    policy: str = BEST,
    costs: Costs | None = None,
) -> tuple[Loop, Scratch]:
    """A loop on a session, with the host that its drafters may use."""
    needs = needs or Needs()
    host = Scratch(engine, session, architecture(), Files(lambda path: engine))
    pairs = [(each, needs.topk > 0) for each in drafters]
    planner = Planner(pairs, costs or flat(growth=0.01), VOCAB, policy)
    return Loop(session, host, planner, needs), host


def loop(engine: Fake, drafter: Drafter, needs: Needs | None = None) -> tuple[Loop, Counting]:
    session = Counting(engine)
    return drafted(engine, session, [drafter], needs)[0], session


def run(engine: Fake, drafter: Drafter, prompt: Sequence[int], rule: Rule) -> Run:
    tally = Tally()
    steps = loop(engine, drafter)[0].run(prompt, rule, tally)
    return Run([each.token for step in steps for each in step], tally)
