"""Whether drafted text is plain text, token for token: every strategy, runtime and way of sampling.

    python bench/exactness.py                       200 prompts of 200 tokens, as `make exactness`
    python bench/exactness.py --prompts 20 --tokens 64 --strategy auto
    python bench/exactness.py --json                one JSON document

Held-out prompts of all workloads take turns, half of them greedy and half at temperature 0.8 with a
seed of their own. On a runtime that is bitwise exact no token may differ. On others a text may
leave plain text where the two likeliest tokens are nearly as likely: the first token that differs
is a near tie if plain decoding's margin there (logits, with the noise of the draw) is under
`--margin`. Near ties may be 0.1 % of all tokens. Exit code 1 if it is not so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import click
import numpy as np

import edgedec
from edgedec import drafting
from edgedec.benchmark import workloads
from edgedec.benchmark.play import Task, answers, fitting
from edgedec.gumbel import gumbel
from edgedec.model import Model

KINDS, SOURCES = ("story", "continue", "edit", "quote", "list"), ("fix",)
MOST_TIES = 1e-3


@dataclass
class Found:
    """What became of all texts of one strategy on one runtime."""

    model: str
    runtime: str
    strategy: str
    policy: str
    temperature: float
    texts: int = 0
    tokens: int = 0
    near_ties: int = 0
    different: int = 0
    widest: float = 0.0
    tokens_per_pass: float = 0.0

    def exact(self, bitwise: bool) -> bool:
        """Whether what was promised holds."""
        if bitwise:
            return not self.near_ties and not self.different
        return not self.different and self.near_ties <= MOST_TIES * self.tokens


def tasks(model: Model, count: int, longest: int) -> Iterator[Task]:
    """So many different prompts, of all workloads in turn."""
    architecture = model._architecture
    kinds = KINDS if architecture.encoder is None else SOURCES
    pools = [fitting(workloads.shipped(kind), model._setup.text, architecture) for kind in kinds]
    rounds = -(-count // len(pools))
    chosen = [pool[i] for i in range(rounds) for pool in pools if i < len(pool)]
    for seed, prompt in enumerate(chosen[:count]):
        yield Task(prompt, seed, longest)


def compare(
    plain: Model, drafted: Model, found: Found, every: Sequence[Task], limit: float
) -> None:
    """Answer every task both ways."""
    passes = 0
    for task in every:
        for model in (plain, drafted):
            model.reset()  # a prompt that is there already was perhaps read in other steps
        one, other = (answers(model, task, found.temperature) for model in (plain, drafted))
        for expected, got in zip(one, other, strict=True):
            found.texts += 1
            found.tokens += expected.new_tokens
            passes += got.passes
            if got.tokens == expected.tokens:
                continue
            pairs = enumerate(zip(got.tokens, expected.tokens, strict=False))
            shorter = min(got.new_tokens, expected.new_tokens)
            place = next((i for i, (a, b) in pairs if a != b), shorter)
            # Where plain decoding ended, nothing is told of the choice but by the one that went on.
            asked = plain if expected.new_tokens > place else drafted
            gap = margin(asked, task, found.temperature, place)
            found.widest = max(found.widest, gap)
            found.near_ties += gap < limit
            found.different += gap >= limit
    found.tokens_per_pass = round(found.tokens / max(1, passes), 3)


def margin(model: Model, task: Task, temperature: float, place: int) -> float:
    """By how much a model preferred its token number `place` to the next best one."""
    prompt = task.prompt
    model.reset()
    text = [{"role": "user", "content": prompt.turns[0]}] if prompt.chat else prompt.turns[0]
    known = model.generate(
        text,
        max_new_tokens=place + 1,
        temperature=temperature,
        seed=task.seed,
        logprobs=model._architecture.vocab,
    )
    if known.logprobs is None or len(known.logprobs) <= place:
        return float("inf")
    top = known.logprobs[place].top
    scores = np.array([value for _, value in top])
    if temperature:
        ids = np.array([token for token, _ in top])
        scores = scores / temperature + gumbel(task.seed, place, ids)
    best = np.sort(scores)[-2:]
    return float(best[1] - best[0])


@click.command(help=__doc__)
@click.option(
    "-m", "--model", "models", multiple=True, default=["stories", "fix"], show_default=True
)
@click.option("--runtime", "runtimes", multiple=True, default=["native", "onnx"], show_default=True)
@click.option("--strategy", "strategies", multiple=True, help="[default: all]")
@click.option("--prompts", default=200, show_default=True)
@click.option("--tokens", default=200, show_default=True)
@click.option("--margin", "limit", default=0.25, show_default=True, help="of a near tie, in logits")
@click.option("--json", "as_json", is_flag=True)
def main(  # noqa: PLR0913, PLR0917 - one for each option
    models: tuple[str, ...],
    runtimes: tuple[str, ...],
    strategies: tuple[str, ...],
    prompts: int,
    tokens: int,
    limit: float,
    as_json: bool,
) -> None:
    rows, failed = [], False
    for model in models:
        for runtime in runtimes:
            for found, good in contest(model, runtime, strategies, (prompts, tokens, limit)):
                failed |= not good
                rows.append({**asdict(found), "exact": good})
                if not as_json:
                    tell(found, good)
    if as_json:
        click.echo(json.dumps({"schema": 1, "rows": rows}, indent=1))
    sys.exit(1 if failed else 0)


def contest(
    model: str, runtime: str, strategies: Sequence[str], size: tuple[int, int, float]
) -> Iterator[tuple[Found, bool]]:
    """Every strategy beside plain decoding, and whether what was promised holds."""
    prompts, tokens, limit = size
    plain = edgedec.load(model, runtime=runtime, strategy=drafting.PLAIN)
    every = list(tasks(plain, prompts, tokens))
    for name in strategies or [name for name in drafting.names() if name != drafting.PLAIN]:
        # The model is its own draft model: no smaller one of its tokenizer ships.
        given = {"bundle": model} if name == "draft_model" else {}
        chosen = drafting.choose(name, given)
        if not strategies and not chosen.serves(plain._host):
            continue
        # `best` checks what pays, which may be nothing; `fixed` checks in every turn.
        for policy in ("best", "fixed") if name == drafting.AUTO else ("fixed",):
            drafted = edgedec.load(
                model, runtime=runtime, strategy=name, strategy_options=given, policy=policy
            )
            for temperature in (0.0, 0.8):
                found = Found(model, runtime, name, policy, temperature)
                compare(plain, drafted, found, every, limit)
                yield found, found.exact(plain._capabilities.exactness == "bitwise")
            drafted.close()
    plain.close()


def tell(found: Found, good: bool) -> None:
    click.echo(
        f"{found.model:8} {found.runtime:8} {found.strategy:16} {found.policy:6} "
        f"{found.temperature:4} {found.texts:5} texts "
        f"{found.tokens:7} tokens {found.tokens_per_pass:6.2f} a pass  near ties "
        f"{found.near_ties:3} ({100 * found.near_ties / max(1, found.tokens):.3f} %)  different "
        f"{found.different}  widest {found.widest:.3f}  {'ok' if good else 'NOT EXACT'}"
    )


if __name__ == "__main__":
    main()
