"""A decode step of a T5 beside CTranslate2 and transformers, greedy, from one checkpoint.

    python bench/t5_step.py --peer-python /env/bin/python     ctranslate2, torch, transformers there
    python bench/t5_step.py --no-draft                        without the replay of `fix`
    python bench/t5_step.py --json                            one JSON document

A checkpoint of T5-small's shape with random weights is made once and converted: ours to int8 and
int4 in every matrix, theirs to int8; transformers runs it in fp32. All read one source and write a
forced number of tokens, long and short; the difference is what a token takes, the loop around the
step included. Contestants are processes that take turns; ratios are medians over rounds with the
10th and 90th percentile. Drafting is measured with the words of `fix` in the time of our int8 model
(a replay): what copy-like work would gain.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SHAPE = "t5-small"
SHORT, LONG = 32, 160
SOURCE = 64
OURS = ("edgedec int8", "edgedec int4")
PEERS = ("ctranslate2 int8", "transformers fp32")


# --- the peers' side: no edgedec there -----------------------------------------------------------


def make_checkpoint(folder: Path) -> None:
    """T5-small with random weights and a tokenizer of made-up words, and CTranslate2's form."""
    import torch
    from ctranslate2.converters import TransformersConverter
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(vocab_size=32128, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).half().save_pretrained(folder)
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, 32128)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    TransformersConverter(str(folder)).convert(str(folder / "ct2"), quantization="int8", force=True)


def source() -> list[str]:
    """The words that are read."""
    return [f"w{(i * 7919 + 31) % 32000 + 3}" for i in range(SOURCE - 1)]


def ctranslate2(folder: str, threads: int) -> Callable[[int], object]:
    """Write so many tokens with CTranslate2."""
    import ctranslate2 as engine

    translator = engine.Translator(
        f"{folder}/ct2", compute_type="int8", inter_threads=1, intra_threads=threads
    )
    tokens = [*source(), "</s>"]

    def write(count: int) -> object:
        limits = {"max_decoding_length": count, "min_decoding_length": count}
        found = translator.translate_batch([tokens], beam_size=1, **limits)
        assert len(found[0].hypotheses[0]) == count
        return found

    return write


def transformers(folder: str, threads: int) -> Callable[[int], object]:
    """Write so many tokens with transformers, in fp32."""
    import torch
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    torch.set_num_threads(threads)
    model = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder)(" ".join(source()), return_tensors="pt").input_ids

    def write(count: int) -> object:
        limits = {"max_new_tokens": count, "min_new_tokens": count}
        with torch.no_grad():
            return model.generate(ids, num_beams=1, do_sample=False, **limits)

    return write


def edgedec(folder: str, threads: int) -> Callable[[int], object]:
    """Write so many tokens with edgedec, one by one."""
    from edgedec import load

    model = load(folder, strategy="plain", threads=threads)
    text = " ".join(source())

    def write(count: int) -> object:
        done = model.generate(text, max_new_tokens=count)
        assert done.new_tokens == count, "the model ended by itself: take another seed"
        return done

    return write


def serve(kind: str, folder: str, threads: int) -> None:
    """Answer numbers of tokens with seconds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    write = {"ctranslate2": ctranslate2, "transformers": transformers, "edgedec": edgedec}[kind](
        folder, threads
    )
    write(SHORT)
    for line in sys.stdin:
        started = time.perf_counter()
        write(int(line))
        print(time.perf_counter() - started, file=answers, flush=True)


# --- our side ------------------------------------------------------------------------------------


class Contestant:
    """A process that writes."""

    def __init__(self, name: str, python: str, folder: Path, threads: int) -> None:
        self.name = name
        command = [
            python,
            __file__,
            "--serve",
            name.split(maxsplit=1)[0],
            str(folder),
            str(threads),
        ]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, **pipes)

    def seconds(self, tokens: int) -> float:
        """What it takes to write so many tokens."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{tokens}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with exit code {self._process.wait()}")
        return float(line)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def prepare(python: str) -> Path:
    """The checkpoint and the bundles made of it."""
    from edgedec.bundle import cache_folder
    from edgedec.export.pipeline import ExportOptions, export_model

    folder = cache_folder() / "bench" / f"{SHAPE}-checkpoint"
    if not (folder / "ct2").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([python, __file__, "--make", str(folder)], check=True)
    for kind in ("int8", "int4"):
        target = folder / kind
        if not target.exists():
            keep = dict.fromkeys(("embed", "q", "k", "v", "o", "up", "down"), f"{kind}/64")
            options = ExportOptions(
                forms=("native",), kind="int8" if kind == "int8" else "int4", keep=keep,
                verify=False, name=f"{SHAPE}-{kind}",
            )  # fmt: skip
            export_model(str(folder), target, options)
    return folder


def measure(python: str, rounds: int, threads: int) -> dict[str, list[float]]:
    """Milliseconds a token, by contestant and round."""
    folder = prepare(python)
    who = [Contestant(name, sys.executable, folder / name.split()[1], threads) for name in OURS]
    who += [Contestant(name, python, folder, threads) for name in PEERS]
    found: dict[str, list[float]] = {each.name: [] for each in who}
    try:
        for number in range(rounds + 1):
            for each in who if number % 2 else who[::-1]:
                time.sleep(0.05)
                step = (each.seconds(LONG) - each.seconds(SHORT)) / (LONG - SHORT)
                if number:
                    found[each.name].append(1e3 * step)
    finally:
        for each in who:
            each.close()
    return found


def drafted(pairs: int, threads: int) -> dict[str, float]:
    """Milliseconds a token of `fix`'s words in the time of our int8 model, plain and drafted."""
    from edgedec.benchmark import stand, suite, workloads

    place = stand.Place(model="fix", threads=threads, replay=f"{SHAPE}/int8")
    shipped = (workloads.shipped("fix"),)
    settings = suite.Settings(place, stand.Ways(), shipped, pairs=pairs, weigh=False)
    rows = suite.run(settings, suite.Ears())
    return {row.strategy: 1e3 / (row.tokens_per_second or float("nan")) for row in rows}


def ratios(found: dict[str, list[float]], name: str, other: str) -> tuple[float, float, float]:
    """How many times as fast one is as the other: median, 10th and 90th percentile."""
    values = sorted(b / a for a, b in zip(found[name], found[other], strict=True))
    tenth = len(values) // 10
    return statistics.median(values), values[tenth], values[-1 - tenth]


def main() -> None:
    import click

    @click.command(help=__doc__)
    @click.option("--peer-python", "python", default=sys.executable)
    @click.option("--rounds", default=15, show_default=True)
    @click.option("--threads", default=2, show_default=True)
    @click.option("--draft/--no-draft", default=True)
    @click.option("--json", "as_json", is_flag=True)
    def run(python: str, rounds: int, threads: int, draft: bool, as_json: bool) -> None:
        found = measure(python, rounds, threads)
        document: dict[str, Any] = {"schema": 1, "ms": found, "ratios": {}}
        for ours in OURS:
            for peer in PEERS:
                document["ratios"][f"{ours} / {peer}"] = ratios(found, ours, peer)
        document["drafted_ms"] = drafted(8, threads) if draft else None
        if as_json:
            click.echo(json.dumps(document))
            return
        for name, values in found.items():
            low, high = _spread(values)
            click.echo(f"{name:18} {statistics.median(values):.3f} ms ({low:.3f}-{high:.3f})")
        for name, (middle, low, high) in document["ratios"].items():
            click.echo(f"{name:38} {middle:.2f} times as fast ({low:.2f}-{high:.2f})")
        for name, value in (document["drafted_ms"] or {}).items():
            peer = statistics.median(found[PEERS[0]])
            click.echo(f"replayed, {name:10} {value:.3f} ms, {peer / value:.2f} times as fast as "
                       f"{PEERS[0]} without drafting")  # fmt: skip

    run()


def _spread(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    tenth = len(ordered) // 10
    return ordered[tenth], ordered[-1 - tenth]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        make_checkpoint(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
