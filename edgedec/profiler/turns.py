"""What a turn costs outside of the step: the loop itself, and each drafter of `auto`.

A short text is written for real, every drafter asked in every turn. It knows no drafter by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgedec import devices, drafting
from edgedec.accept import Rule
from edgedec.contracts import Source
from edgedec.decode import Loop, Tally
from edgedec.host import Files, Scratch
from edgedec.plan import Planner
from edgedec.profiler import sources
from edgedec.sampling import Sampler, Sampling

if TYPE_CHECKING:
    from edgedec.bundle import Bundle
    from edgedec.contracts import Engine
    from edgedec.costs import Costs

TOKENS = 96
"""Of the text that is written: enough for medians, a second or two on a model of 1 B parameters."""


def measure(engine: Engine, bundle: Bundle, costs: Costs) -> tuple[float, Mapping[str, float]]:
    """Seconds of a plain turn outside of its step, and of each drafter of `auto` by its name."""
    plain, _ = _write(engine, bundle, costs, drafting.choose(drafting.PLAIN))
    _, drafters = _write(engine, bundle, costs, drafting.choose(policy="fixed"))
    return plain, drafters


def _write(
    engine: Engine, bundle: Bundle, costs: Costs, chosen: drafting.Drafting
) -> tuple[float, Mapping[str, float]]:
    architecture = bundle.manifest.architecture
    session = engine.session()
    parts = devices.trained(bundle, engine, getattr(engine, "threads", None))
    files = Files(_refuse, bundle.strategy_file, parts)
    host = Scratch(engine, session, architecture, files)
    chosen = chosen.fitted(host)
    planner = Planner(chosen.open(host), costs, architecture.vocab, chosen.policy)
    loop = Loop(session, host, planner, chosen.needs(host))
    if architecture.encoder is not None:
        heard = sources.usual(architecture)
        tokens = () if architecture.frontend is not None else tuple(heard.tolist())
        loop.encode(heard, Source(tokens))
    begin = architecture.tokens.decoder_start, architecture.tokens.bos, *architecture.tokens.eos, 0
    prompt = [next(token for token in begin if token is not None)] * 2
    rule = Rule(Sampler.build(Sampling(temperature=0.8, seed=1)), frozenset(), TOKENS)
    for _ in loop.run(prompt, rule, Tally()):
        pass
    names = [part.name for part in chosen.parts]
    return planner.host, dict(zip(names, planner.drafter_costs, strict=True))


def _refuse(bundle: str) -> Engine:
    raise AssertionError(f"no strategy of auto opens another model, one asked for {bundle}")
