"""Measure a model folder: python .../evaluate.py --data D --model FOLDER --out FILE.

Writes the JSON that the model card quotes. Everything is measured on held-out text.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from edgedec.models.reference.stories.data import ASSISTANT, END, USER, Texts, load_texts
from edgedec.models.reference.stories.tasks import KINDS, Pool, Task, make_task
from edgedec.training.torch_llama import TorchLlama, load_hugging_face

WINDOW, BATCH = 512, 16
EXIT_LAYER = 3
PROMPTS = (
    "Once upon a time, there was a little fox",
    "One day, Lily and Ben went to the",
    "There was once a king who had three daughters.",
    f"{USER}Tell me a story about a dog named Max.{ASSISTANT}",
)


@torch.no_grad()
def bits_per_byte(
    model: TorchLlama, tokenizer: Tokenizer, documents: list[str], last: int | None = None
) -> float:
    """Bits per byte of text in windows of 512 tokens; the end token is context, not scored."""
    rows, size = [], 0
    for document in documents:
        ids = [0, *tokenizer.encode(document).ids]
        size += len(document.encode())
        rows += [ids[start : start + WINDOW + 1] for start in range(0, len(ids) - 1, WINDOW)]
    rows.sort(key=len)
    total = 0.0
    for start in range(0, len(rows), BATCH):
        tokens, targets = _padded(rows[start : start + BATCH])
        logits = model(tokens, last)
        total += float(torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
        ))  # fmt: skip
    return total / math.log(2.0) / size


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    length = max(len(row) for row in rows) - 1
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    targets = torch.full((len(rows), length), -100)
    for index, row in enumerate(rows):
        tokens[index, : len(row) - 1] = torch.tensor(row[:-1])
        targets[index, : len(row) - 1] = torch.tensor(row[1:])
    return tokens, targets


@torch.no_grad()
def exact(model: TorchLlama, tokenizer: Tokenizer, tasks: list[Task]) -> list[bool]:
    """Whether greedy decoding gives the answer and then ends.

    Given the answer so far, every next choice must be the right one: that is the same as
    decoding, and one pass is enough.
    """
    found = []
    for start in range(0, len(tasks), 4 * BATCH):
        part = tasks[start : start + 4 * BATCH]
        prompts = [tokenizer.encode(f"{USER}{task.prompt}{ASSISTANT}").ids for task in part]
        answers = [tokenizer.encode(task.answer + END).ids for task in part]
        tokens, targets = _padded([p + a for p, a in zip(prompts, answers, strict=True)])
        right = model(tokens).argmax(-1) == targets
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            first = len(prompt) - 1
            found.append(bool(right[row, first : first + len(answer)].all()))
    return found


def task_results(
    model: TorchLlama, tokenizer: Tokenizer, texts: Texts, count: int
) -> tuple[dict[str, float], list[dict[str, str]]]:
    """Share of exact answers by kind and text, and some of the failures."""
    shares: dict[str, float] = {}
    failed: list[dict[str, str]] = []
    sources = {
        "tinystories": texts.held_out["tinystories"],
        "books": [
            t for name, part in texts.held_out.items() if name != "tinystories" for t in part
        ],
    }
    every: list[bool] = []
    for source, documents in sources.items():
        pool = Pool.build(documents)
        for kind in KINDS:
            rng = random.Random(f"held out/{source}/{kind}")
            tasks = [make_task(rng, pool, kind) for _ in range(count)]
            results = exact(model, tokenizer, tasks)
            shares[f"{kind}, {source}"] = sum(results) / count
            every += results
            wrong = [task for task, good in zip(tasks, results, strict=True) if not good]
            failed += [{"prompt": task.prompt, "answer": task.answer} for task in wrong[:2]]
    shares["all"] = sum(every) / len(every)
    return shares, failed


@torch.no_grad()
def generate(
    model: TorchLlama, prompts: list[list[int]], count: int, temperature: float, seed: int = 0
) -> list[list[int]]:
    """Continue all prompts side by side; 0 is greedy. In bf16 and without a cache: used here only.

    Rows are padded on the right, which a causal model does not see.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [list(prompt) for prompt in prompts]
    going = list(range(len(rows)))
    for _ in range(count):
        length = max(len(rows[index]) for index in going)
        tokens = torch.tensor([rows[i] + [0] * (length - len(rows[i])) for i in going])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(tokens)
        last = logits[range(len(going)), [len(rows[i]) - 1 for i in going]].float()
        if temperature > 0.0:
            chances = torch.softmax(last / temperature, -1)
            drawn = torch.multinomial(chances, 1, generator=generator)[:, 0].tolist()
        else:
            drawn = last.argmax(-1).tolist()
        for index, token in zip(going, drawn, strict=True):
            rows[index].append(token)
        going = [index for index in going if rows[index][-1] > 1]  # 0 ends, 1 is a user turn
        if not going:
            break
    continued = [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]
    return [row[:-1] if row[-1] <= 1 else row for row in continued]


def distinct(rows: Iterable[list[int]], size: int = 4) -> float:
    """Share of different runs of `size` tokens within a text, averaged over texts."""
    shares = []
    for row in rows:
        runs = [tuple(row[i : i + size]) for i in range(len(row) - size + 1)]
        if runs:
            shares.append(len(set(runs)) / len(runs))
    return sum(shares) / max(1, len(shares))


def words_of(text: str) -> list[str]:
    """Lower-case words, without marks."""
    return re.findall(r"[a-z0-9']+", text.lower())


def overlap(generated: list[str], training: Iterable[str], size: int = 12) -> float:
    """Share of the generated runs of `size` words that stand in the training text."""
    runs = [tuple(w[i : i + size]) for w in map(words_of, generated)
            for i in range(len(w) - size + 1)]  # fmt: skip
    wanted, seen = set(runs), set()
    starts = {run[:2] for run in wanted}
    for text in training:
        words = words_of(text)
        for index in range(len(words) - size + 1):
            if (words[index], words[index + 1]) in starts:
                run = tuple(words[index : index + size])
                if run in wanted:
                    seen.add(run)
    return sum(run in seen for run in runs) / max(1, len(runs))


def story_prompts(tokenizer: Tokenizer, texts: Texts, count: int) -> list[list[int]]:
    """The first 12 words of held-out stories."""
    openings = [" ".join(story.split(" ")[:12]) for story in texts.held_out["tinystories"][:count]]
    return [[0, *tokenizer.encode(opening).ids] for opening in openings]


def sample_results(
    model: TorchLlama, tokenizer: Tokenizer, texts: Texts, stories: int
) -> dict[str, object]:
    """Distinct-4 and overlap on held-out openings; samples to read."""
    prompts = story_prompts(tokenizer, texts, stories)
    training = texts.train["tiny"] + texts.train["fairy"] + texts.train["books"]
    results: dict[str, object] = {}
    for name, temperature in (("greedy", 0.0), ("t0.8", 0.8)):
        rows = generate(model, prompts, 160, temperature)
        texts_out = [tokenizer.decode(row) for row in rows]
        fixed = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
        samples = generate(model, fixed, 160, temperature)
        results[name] = {
            "distinct4": distinct(rows),
            "overlap12": overlap(texts_out, training),
            "mean_tokens": sum(map(len, rows)) / len(rows),
            "ended": sum(len(row) < 160 for row in rows) / len(rows),
            "samples": [{"prompt": p, "text": tokenizer.decode(row)}
                        for p, row in zip(PROMPTS, samples, strict=True)],
        }  # fmt: skip
    return results


@torch.no_grad()
def exit_agreement(model: TorchLlama, tokenizer: Tokenizer, documents: list[str]) -> float:
    """How often the early exit's first choice is the full model's."""
    same = count = 0
    for document in documents:
        tokens = torch.tensor([[0, *tokenizer.encode(document).ids][:WINDOW]])
        same += int((model(tokens, EXIT_LAYER).argmax(-1) == model(tokens).argmax(-1)).sum())
        count += tokens.shape[1]
    return same / count


def measure(
    model: TorchLlama, tokenizer: Tokenizer, texts: Texts, counts: tuple[int, int]
) -> dict[str, object]:
    """All numbers of one model; `counts` = tasks of each kind and text, stories."""
    shares, failed = task_results(model, tokenizer, texts, counts[0])
    tiny = texts.held_out["tinystories"]
    return {
        "bits_per_byte": {
            name: bits_per_byte(model, tokenizer, documents)
            for name, documents in texts.held_out.items()
        },
        "exit_layer": EXIT_LAYER,
        "exit_bits_per_byte": bits_per_byte(model, tokenizer, tiny, EXIT_LAYER),
        "exit_agreement": exit_agreement(model, tokenizer, tiny),
        "tasks_exact": shares,
        "tasks_failed": failed,
        **(sample_results(model, tokenizer, texts, counts[1]) if counts[1] else {}),
    }


def main() -> None:
    """Evaluate one model (the seed is one, too) and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face style folder")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--tasks", type=int, default=100, help="of each kind and text")
    parser.add_argument("--stories", type=int, default=24)
    arguments = parser.parse_args()
    started = time.monotonic()
    texts = load_texts(arguments.data)
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    counts = (arguments.tasks, arguments.stories)
    found = {
        **measure(load_hugging_face(arguments.model), tokenizer, texts, counts),
        "tasks_each": arguments.tasks,
        "stories": arguments.stories,
    }
    text = json.dumps({**found, "seconds": round(time.monotonic() - started)}, indent=1) + "\n"
    arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
