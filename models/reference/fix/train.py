"""Train `fix`: python models/reference/fix/train.py --data D --start STORIES --out DIR.

Ctrl-C saves and stops; the same line with --resume continues where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import torch
from tokenizers import Tokenizer

from edgedec.models.reference.fix.mixture import Mixture
from edgedec.models.reference.fix.passages import make_streams
from edgedec.models.reference.fix.recipe import Recipe
from edgedec.models.reference.stories.data import load_texts
from edgedec.models.reference.stories.train import say
from edgedec.training.made_ahead import MadeAhead
from edgedec.training.pretrain import (
    Losses,
    Rates,
    Report,
    Schedule,
    Trainer,
    compiled_for,
    on_device,
    told_to_stop,
)
from edgedec.training.torch_llama import load_hugging_face
from edgedec.training.torch_mu import Pairs, TorchMu, from_llama

STORIES = Path(__file__).parents[1] / "stories" / "checkpoint"


class FixLoss:
    """The compiled loss, one graph for each bucket."""

    def __init__(self, model: TorchMu, pointer_weight: float) -> None:
        self._pointer_weight = pointer_weight
        self._device = model.embed.device

        def losses(batch: Pairs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            with torch.autocast(self._device.type, torch.bfloat16):
                return model.losses(batch)

        blocks = [*model.encoder, *model.decoder]
        self._losses = compiled_for(self._device, losses, blocks, dynamic=None)

    def __call__(self, batch: Pairs, step: int) -> Losses:
        """`loss` is what is trained, `plain` counts all tokens alike."""
        weighted, plain, lost = self._losses(on_device(batch, self._device))
        return {"loss": weighted + self._pointer_weight * lost, "plain": plain, "pointer": lost}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus/ and text/")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints")
    parser.add_argument("--start", type=Path, required=True, help="a wide `stories`: its export")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    parser.add_argument("--steps", type=int, help="last step; may change at a resume")
    parser.add_argument("--edit-weight-end", type=float, help="may change at a resume")
    return parser.parse_args()


def recipe_from(arguments: argparse.Namespace) -> Recipe:
    """The recipe with the changes of the command line."""
    names = ("steps", "edit_weight_end")
    changes = {n: getattr(arguments, n) for n in names if getattr(arguments, n) is not None}
    return dataclasses.replace(Recipe(), **changes)


def main() -> None:
    """Prepare and train."""
    arguments = parse_arguments()
    recipe = recipe_from(arguments)
    tokenizer = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    streams = make_streams(load_texts(arguments.data), tokenizer)
    say(f"pid {os.getpid()} sentences { ({k: len(v.sentences) for k, v in streams.items()}) }")
    torch.manual_seed(recipe.seed)
    model = from_llama(load_hugging_face(arguments.start), recipe.shape).to(arguments.device)
    trainer = Trainer(
        model=model,
        loss=FixLoss(model, recipe.pointer_weight),
        batches=MadeAhead(Mixture(streams, tokenizer, recipe), arguments.workers),
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

    say(f"start at {trainer.step}")
    trainer.run(report, stop)
    say(f"stop at {trainer.step}")


if __name__ == "__main__":
    main()
