"""Small models in native form, with and without an encoder, that draft for themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from edgedec.accept import Rule
from edgedec.bundle import open_bundle, write_bundle
from edgedec.contracts import Engine, Needs, Rows, Session, Source, StepResult
from edgedec.costs import flat
from edgedec.decode import Loop, Tally
from edgedec.export import reference
from edgedec.export._blocks import Placement, block, norm
from edgedec.export.checkpoint import Arrays
from edgedec.host import Files, Scratch
from edgedec.manifest import format_of
from edgedec.plan import Planner
from edgedec.runtimes.native import packed
from edgedec.sampling import Sampler, Sampling
from edgedec.weights import shapes
from tests.native import variants
from tests.native.counted import numbers, put, without_offsets

SOURCE = Source((5, 9, 13, 2, 40, 7), "")


def model(folder: Path, base: str = "plain", layers: int = 5) -> variants.Model:
    """A model of `tests.native` with so many decoder layers, all of one kind."""
    spec, formats = variants.described(base)
    stack = replace(spec.decoder, layers=spec.decoder.layers[:1] * layers)
    spec = replace(spec, decoder=stack)
    stored, meant = numbers(spec, formats)
    target = folder / f"{base}{layers}"
    with write_bundle(target) as writer:
        put(writer.path / "native.safetensors", packed.tensors(spec, partial(format_of, formats)),
            stored)  # fmt: skip
        variants.finish(writer, base, spec, formats)
    return variants.Model(open_bundle(target), Arrays(spec, without_offsets(spec, meant)))


@dataclass
class Given:
    """A part as tests make it up."""

    about: dict[str, Any]
    masks: np.ndarray | None = None

    def vectors(self, name: str) -> np.ndarray:
        assert name == "masks" and self.masks is not None
        return self.masks


@dataclass
class Watched:
    """A host that remembers the scratch steps and their logits."""

    inner: Scratch
    steps: list[tuple[Rows, Any, np.ndarray]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def step(self, rows: Rows, layers: Any = None, want: Any = None) -> StepResult:
        result = self.inner.step(rows, layers, want)
        lines = [result.logits(i).copy() for i in want.logits]
        self.steps.append((rows, layers, np.array(lines)))
        return result


def host_of(engine: Engine, session: Session, spec: Any, part: Any = None) -> Scratch:
    found = part if isinstance(part, dict) else None
    files = Files(
        lambda path: engine, open_part=lambda name: part if found is None else found.get(name)
    )
    return Scratch(engine, session, spec, files)


def started(made: variants.Model, part: Any = None) -> tuple[Session, Watched]:
    """A session that has read its source, and a host that watches."""
    engine = made.open()
    session = engine.session()
    if made.architecture.encoder is not None:
        session.encode(np.array(SOURCE.tokens, np.int32))
    return session, Watched(host_of(engine, session, made.architecture, part))


def written(
    made: variants.Model,
    strategy: Any,
    prompt: Sequence[int],
    sampling: Sampling,
    part: Any = None,
    most: int = 40,
) -> tuple[list[int], Tally]:
    """What the loop writes with a strategy, several, or none."""
    engine = made.open()
    session = engine.session()
    host = host_of(engine, session, made.architecture, part)
    chosen = strategy if isinstance(strategy, list) else [strategy] if strategy else []
    asked = [each.needs(host) for each in chosen]
    needs = Needs(
        topk=max((each.topk for each in asked), default=0),
        hidden=tuple(sorted({layer for each in asked for layer in each.hidden})),
    )
    drafters = [(e.open(host), n.topk > 0) for e, n in zip(chosen, asked, strict=True)]
    planner = Planner(drafters, flat(growth=0.01), made.architecture.vocab, "fixed")
    looped = Loop(session, host, planner, needs)
    if made.architecture.encoder is not None:
        looped.encode(np.array(SOURCE.tokens, np.int32), SOURCE)
    tally = Tally()
    steps = looped.run(prompt, Rule(Sampler.build(sampling), frozenset(), most), tally)
    return [each.token for step in steps for each in step], tally


def skipped(
    made: variants.Model, text: list[int], held: int, masks: np.ndarray, skip: range
) -> np.ndarray:
    """The logits of the last token of a text and of masks behind it, in numpy: the first `held`
    tokens run the whole model, what follows sees them and skips some layers."""
    spec, weights = made.architecture, made.weights
    memory = None
    if spec.encoder is not None:
        memory = reference.encode(spec, weights, np.array(SOURCE.tokens))

    def named(module: str) -> dict[str, np.ndarray]:
        start = f"decoder.{module}"
        names = [name for name in shapes(spec) if name.startswith(start)]
        return {name.removeprefix(start): weights.load(name) for name in names}

    trunk, rows = text[:held] or [0], Placement(len(text) + len(masks))
    whole = list(reference.states(spec, weights, trunk, Placement(len(trunk)), memory))
    entered = next(reference.states(spec, weights, text, Placement(len(text)), memory))
    x = np.concatenate([entered, masks])
    for index in (i for i in range(spec.layers) if i not in skip):
        x[:held] = whole[index][:held]
        x = block(x, spec.decoder.layers[index], named(f"layers.{index}."), rows, memory)
    last = {f"final_norm.{name}": value for name, value in named("final_norm.").items()}
    x = norm(x[len(text) - 1 :], spec.decoder.final_norm, last, "final_norm")
    return x @ weights.load("embed.weight").T


def texts_of(made: variants.Model, count: int, length: int = 24) -> Any:
    """Texts that a model wrote, greedily or not, a third held out: `training.texts.Texts`."""
    from edgedec.training.texts import Texts, Written

    found = []
    for seed in range(count):
        prompt = [3 + seed, 17, 5 + 2 * seed]
        sampling = Sampling(temperature=0.5 * (seed % 2), seed=seed)
        tokens, _ = written(made, None, prompt, sampling, most=length)
        source = None if made.architecture.encoder is None else np.array(SOURCE.tokens, np.int32)
        whole = np.array([*prompt, *tokens], np.int32)
        found.append(Written(whole, len(prompt), source, seed % 2 == 0))
    return Texts(found[count // 3 :], found[: count // 3], "made up")
