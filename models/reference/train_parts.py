"""The drafting parts that ship: python models/reference/train_parts.py MODEL --data D --out FOLDER.

Writes prompts made of training texts, then trains every strategy by the command that it prints.
Stopped, the same line goes on. With --install nothing is trained: what lies in FOLDER is put into
the model's bundle.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from edgedec.bundle import add_strategies, open_bundle

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Corpus:
    """What is learned from: so many `tokens` that the model writes for so many `prompts`, 0: as
    many as its script makes."""

    tokens: int
    prompts: int = 0

    def file(self, out: Path) -> Path:
        """Where the prompts lie."""
        return out / (f"prompts-{self.prompts}.jsonl" if self.prompts else "prompts.jsonl")


@dataclass(frozen=True)
class Recipe:
    """How the parts of one model are made: what they learn from, options by strategy, how matrices
    are stored, which ones `auto` takes (bench/LOG.md says why), which do not ship, and which learn
    from texts of their `own`."""

    corpus: Corpus
    options: dict[str, dict[str, int | float]]
    kind: str = "int4"
    automatic: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    own: dict[str, Corpus] = field(default_factory=dict)

    def corpus_of(self, strategy: str) -> Corpus:
        """What one strategy learns from."""
        return self.own.get(strategy, self.corpus)


RECIPES = {
    "stories": Recipe(
        Corpus(tokens=220_000),
        automatic=("attention_head",),
        options={
            "early_exit": {},
            "layer_skip": {"steps": 216},
            "prompt_decoding": {"batch": 4, "points": 32, "steps": 200},
            "hidden_transfer": {"batch": 4, "steps": 150},
            "medusa": {"batch": 4, "steps": 300},
            "hydra": {"batch": 4, "steps": 900},
            "recurrent": {"batch": 4, "steps": 200},
            "kangaroo": {"batch": 4, "steps": 167},
            "eesd": {"batch": 4, "steps": 150},
            "attention_head": {"batch": 4, "steps": 900},
        },
    ),
    "fix": Recipe(
        Corpus(tokens=300_000),
        automatic=("edit_tags",),
        # What becomes of a misspelt word is learned from many: few are damaged in each passage.
        own={"edit_tags": Corpus(tokens=3_500_000, prompts=50_000)},
        options={
            "edit_tags": {"steps": 3000, "patience": 12},
            "early_exit": {},
            "layer_skip": {"batch": 4, "steps": 60, "ranges": 3, "coarse": 20},
            "prompt_decoding": {"batch": 4, "points": 32, "steps": 200},
            "hidden_transfer": {"batch": 4, "steps": 60},
            "medusa": {"batch": 4, "steps": 487},
            "hydra": {"batch": 4, "steps": 240},
            "recurrent": {"batch": 4, "steps": 80},
            "kangaroo": {"batch": 4, "steps": 60},
            "eesd": {"batch": 4, "steps": 60},
            "attention_head": {"batch": 4, "steps": 240},
        },
    ),
}
"""With the steps after which the shipped parts were done."""


def commands(model: str, out: Path) -> list[list[str]]:
    """The commands that train the parts of a model, one for each strategy."""
    recipe = RECIPES[model]
    made = []
    for name, options in recipe.options.items():
        corpus = recipe.corpus_of(name)
        command = ["edgedec", "train", name, "-m", str(HERE / model / "bundle")]
        command += ["--data", str(corpus.file(out)), "--tokens", str(corpus.tokens)]
        command += ["--kind", recipe.kind, "-o", str(out)]
        command += ["--automatic" if name in recipe.automatic else "--on-request"]
        for option, value in options.items():
            command += ["--option", f"{name}.{option}={value}"]
        made.append(command)
    return made


def run(command: list[str]) -> None:
    """Print a command and run it; a failure ends all."""
    print(shlex.join(command), flush=True)
    # The programs of the Python that runs this come first.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})


def write_prompts(script: Path, data: Path, corpus: Corpus, out: Path) -> None:
    """Write the prompts of a corpus, unless they are there."""
    place = corpus.file(out)
    if not place.exists():
        count = ["--count", str(corpus.prompts)] if corpus.prompts else []
        run([sys.executable, str(script), "--data", str(data), "--out", str(place), *count])


def install(model: str, out: Path) -> None:
    """Put the trained parts into the bundle, but for those that do not ship."""
    left_out = RECIPES[model].left_out
    files = {p.stem: p for p in sorted(out.glob("*.safetensors")) if p.stem not in left_out}
    bundle = add_strategies(open_bundle(HERE / model / "bundle"), files)
    for name, path in files.items():
        print(f"{name}: {path.stat().st_size} bytes")
    print(f"{bundle.path}: {', '.join(bundle.manifest.strategies)}")


def main() -> None:
    """Train, or install."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, help="folder with corpus/ and text/")
    parser.add_argument("--out", type=Path, required=True, help="where the parts lie")
    parser.add_argument("--install", action="store_true", help="put them into the bundle")
    arguments = parser.parse_args()
    if arguments.install:
        install(arguments.model, arguments.out)
        return
    if arguments.data is None:
        parser.error("training needs --data")
    arguments.out.mkdir(parents=True, exist_ok=True)
    recipe = RECIPES[arguments.model]
    for corpus in (recipe.corpus, *recipe.own.values()):
        write_prompts(HERE / arguments.model / "prompts.py", arguments.data, corpus, arguments.out)
    for command in commands(arguments.model, arguments.out):
        run(command)


if __name__ == "__main__":
    main()
