"""Train `stories`: python models/reference/stories/train.py --data ../shared/data --out DIR.

Ctrl-C saves and stops; the same line with --resume continues where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer

from edgedec.models.reference.stories.data import Texts, encode_documents, load_texts, load_tokens
from edgedec.models.reference.stories.mixture import Mixture
from edgedec.models.reference.stories.package import write_folder
from edgedec.models.reference.stories.recipe import WIDE, Recipe
from edgedec.models.reference.stories.tasks import Pool
from edgedec.training.made_ahead import MadeAhead
from edgedec.training.pretrain import (
    Batch,
    Losses,
    Rates,
    Report,
    Schedule,
    Trainer,
    compiled_for,
    on_device,
    told_to_stop,
)
from edgedec.training.torch_llama import TorchLlama, layer_keep, load_hugging_face

PROBE_ROWS, PROBE_LENGTH = 48, 256


class StoriesLoss:
    """The compiled loss: next token, plus the early exit, with layer dropout."""

    def __init__(self, model: TorchLlama, recipe: Recipe) -> None:
        self._recipe = recipe
        self._layers = model.shape.layers
        self._device = model.embed.device

        def losses(batch: Batch, keep: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
            exit_layer = recipe.exit_layer if recipe.layerskip else None
            with torch.autocast(self._device.type, torch.bfloat16):
                return model.losses(*batch, keep, exit_layer)

        self._losses = compiled_for(self._device, losses, model.layers)

    def __call__(self, batch: Batch, step: int) -> Losses:
        """All losses of a batch; `loss` is what is trained."""
        keep = None
        if self._recipe.layerskip:
            # seeded by the step, so a resumed run drops the same layers
            generator = torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + step)
            rows = batch.tokens.shape[0]
            keep = layer_keep(self._layers, rows, self._recipe.top_dropout, generator)
            keep = keep.to(self._device)
        full, early = self._losses(on_device(batch, self._device), keep)
        return {"loss": full + self._recipe.exit_weight * early, "full": full, "early": early}


class Probe:
    """Held-out loss of full model and early exit on a few fixed rows."""

    def __init__(self, texts: Texts, tokenizer: Tokenizer, recipe: Recipe) -> None:
        tiny = encode_documents(tokenizer, texts.held_out["tinystories"])
        books = [text for name, part in texts.held_out.items() if name != "tinystories"
                 for text in part]  # fmt: skip
        self._rows = {"tiny": _rows(tiny), "books": _rows(encode_documents(tokenizer, books))}
        self._exit = recipe.exit_layer

    @torch.no_grad()
    def __call__(self, model: TorchLlama) -> dict[str, float]:
        """Mean loss per token by text, for all layers and for the exit."""
        found: dict[str, float] = {}
        device = model.embed.device
        for name, rows in self._rows.items():
            batch = on_device(Batch(rows[:, :-1], rows[:, 1:]), device)
            with torch.autocast(device.type, torch.bfloat16):
                full, early = model.losses(*batch, None, self._exit)
            found |= {name: float(full), f"{name}_exit": float(early)}
        return found


def _rows(tokens: object) -> torch.Tensor:
    array = torch.as_tensor(tokens, dtype=torch.long)
    starts = torch.linspace(0, len(array) - PROBE_LENGTH - 1, PROBE_ROWS).long()
    return torch.stack([array[start : start + PROBE_LENGTH + 1] for start in starts.tolist()])


def task_pool(texts: Texts, recipe: Recipe) -> Pool:
    """The sentences that training tasks are made of."""
    train = texts.train
    texts_used = train["tiny"] + train["fairy"] + train["books"][:: recipe.task_books_share]
    return Pool.build(texts_used, recipe.paired_share)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus/ and text/")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, caches, export")
    parser.add_argument("--start", type=Path, help="weights to start from; default: data/seed")
    parser.add_argument("--wide", action="store_true", help="the wide recipe, from nothing")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    parser.add_argument("--steps", type=int, help="last step; may change at a resume")
    parser.add_argument("--muon-rate", type=float, help="0 trains the matrices with AdamW")
    parser.add_argument("--adam-rate", type=float)
    parser.add_argument("--no-layerskip", action="store_true")
    parser.add_argument("--probe-every", type=int, default=250)
    return parser.parse_args()


def recipe_from(arguments: argparse.Namespace) -> Recipe:
    """The recipe with the changes of the command line."""
    names = ("steps", "muon_rate", "adam_rate")
    changes = {n: getattr(arguments, n) for n in names if getattr(arguments, n) is not None}
    recipe = WIDE if arguments.wide else Recipe()
    return dataclasses.replace(recipe, layerskip=not arguments.no_layerskip, **changes)


def model_from(arguments: argparse.Namespace, recipe: Recipe) -> TorchLlama:
    """The model before its first step."""
    if not arguments.wide:
        return load_hugging_face(arguments.start or arguments.data / "seed")
    torch.manual_seed(recipe.seed)
    return TorchLlama(recipe.shape)


def say(text: str) -> None:
    """Print a line with the time; the log is read while the run goes on."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def main() -> None:
    """Prepare, train, export."""
    arguments = parse_arguments()
    recipe = recipe_from(arguments)
    seed_folder = arguments.data / "seed"
    tokenizer = Tokenizer.from_file(str(seed_folder / "tokenizer.json"))
    texts = load_texts(arguments.data)
    streams = load_tokens(texts, tokenizer, arguments.out)
    say(f"pid {os.getpid()} tokens { ({k: len(v) for k, v in streams.items()}) }")
    model = model_from(arguments, recipe).to(arguments.device)
    probe = Probe(texts, tokenizer, recipe)
    mixture = Mixture(streams, texts.train["tiny"], task_pool(texts, recipe), tokenizer, recipe)
    trainer = Trainer(
        model=model,
        loss=StoriesLoss(model, recipe),
        batches=MadeAhead(mixture, arguments.workers),
        schedule=Schedule(recipe.warmup, recipe.steps, recipe.decay_share, recipe.final_rate),
        rates=Rates(recipe.muon_rate, recipe.adam_rate, recipe.weight_decay, recipe.clip),
        folder=arguments.out,
    )
    if arguments.resume:
        trainer.resume()
    stop = told_to_stop()

    def report(report: Report) -> None:
        if report.step % 10 == 0 or report.step < 5:
            say(str(report))
        if report.step % arguments.probe_every == 0:
            say(f"probe {report.step} {probe(model)}")

    say(f"start at {trainer.step} probe {probe(model)}")
    trainer.run(report, stop)
    say(f"stop at {trainer.step} probe {probe(model)}")
    if trainer.step >= recipe.steps:
        write_folder(model, seed_folder / "tokenizer.json", arguments.out / "export")


if __name__ == "__main__":
    main()
