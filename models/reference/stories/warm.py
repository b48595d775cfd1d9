"""The hot start that ships with stories: python .../warm.py --data D [--bundle FOLDER].

The model continues openings of its training stories and answers requests of the kinds it was
trained on; what it found likely there is put into the bundle. Nothing held out is read.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from edgedec import api, drafting, warm
from edgedec.bundle import add_strategies, open_bundle
from edgedec.devices import EngineOptions
from edgedec.models.reference.stories.data import ASSISTANT, USER, load_texts
from edgedec.models.reference.stories.tasks import KINDS, Pool, make_task

BUNDLE = Path(__file__).with_name("bundle")
MOST = {"token_recycling": 12_000, "trigram": 12_000}
"""Contexts that are kept of each: together 0.8 MB."""


def prompts(root: Path, count: int, seed: int = 0) -> list[str]:
    """Openings of 12 words, and one request of each kind for every eight of them."""
    texts = load_texts(root)
    rng = random.Random(seed)
    stories = rng.sample(texts.train["tiny"], count)
    pool = Pool.build(stories)
    found = []
    for index, story in enumerate(stories):
        found.append(" ".join(story.split(" ")[:12]))
        if index % 8 == 0:
            tasks = [make_task(rng, pool, kind) for kind in KINDS]
            found += [f"{USER}{task.prompt}{ASSISTANT}" for task in tasks]
    rng.shuffle(found)
    return found


def main() -> None:
    """Write the hot start into the bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--stories", type=int, default=5000)
    parser.add_argument("--tokens", type=int, default=1_600_000)
    arguments = parser.parse_args()
    options = EngineOptions(device="")
    setup = api.assemble(arguments.bundle, options, None, drafting.choose(drafting.PLAIN))
    texts = [setup.text.encode(prompt) for prompt in prompts(arguments.data, arguments.stories)]
    with tempfile.TemporaryDirectory() as folder:
        writing = warm.Writing(tokens=arguments.tokens)
        files = warm.learn(setup, Path(folder), texts, writing, MOST)
        bundle = add_strategies(open_bundle(arguments.bundle), files)
    for name in files:
        path = bundle.strategy_file(name)
        print(f"{name}: {path.stat().st_size} bytes" if path else name)


if __name__ == "__main__":
    main()
