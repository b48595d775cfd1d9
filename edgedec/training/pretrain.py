"""A resumable trainer: schedule, optimisers, checkpoints. Prints nothing; a callback reports.

Knows no data and no model: it is given batches, a loss and named parameters.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from edgedec.replacing import replacing
from edgedec.training.muon import BatchedMuon


class Batch(NamedTuple):
    """Token ids, what should follow each, and how much that counts, all [rows, length]."""

    tokens: Tensor
    targets: Tensor
    weights: Tensor | None = None


class Counted(Protocol):
    """A batch of any kind: the trainer only counts its tokens."""

    @property
    def tokens(self) -> Tensor:
        """The ids that are predicted from."""


class Batches(Protocol):
    """Where batches come from: the step alone decides, so a resumed run has the same ones."""

    def batch(self, step: int) -> Counted:
        """The batch of this step; called once per step, in order."""


Losses = Mapping[str, Tensor]
Loss = Callable[[Any, int], Losses]  # takes the kind of batch that `Batches` gives


@dataclass(frozen=True)
class Schedule:
    """Warm up, hold, decay. Only the decay knows the end, so the end can still be moved."""

    warmup: int
    end: int
    decay_share: float = 0.4
    final: float = 0.02

    def scale(self, step: int) -> float:
        """Factor on the peak rate at a step."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        tail = max(1, round(self.end * self.decay_share))
        left = min(1.0, max(0.0, (self.end - step) / tail))
        return rise * (self.final + (1.0 - self.final) * left)


@dataclass(frozen=True)
class Rates:
    """Peak rates. `muon` is for block matrices (0 puts them under AdamW too)."""

    muon: float
    adam: float
    weight_decay: float = 0.1
    clip: float = 1.0


@dataclass(frozen=True)
class Report:
    """What one step did."""

    step: int
    losses: dict[str, float]
    tokens: int
    seconds: float
    scale: float

    def __str__(self) -> str:
        losses = " ".join(f"{name} {value:.4f}" for name, value in self.losses.items())
        return (
            f"step {self.step} tokens {self.tokens} {losses} "
            f"scale {self.scale:.3f} seconds {self.seconds:.2f}"
        )


@dataclass
class Trainer:
    """Runs steps until the schedule ends or `stop` says so; saves as it goes."""

    model: nn.Module
    loss: Loss
    batches: Batches
    schedule: Schedule
    rates: Rates
    folder: Path
    save_seconds: float = 300.0
    step: int = 0
    tokens: int = 0
    optimisers: list[torch.optim.Optimizer] = field(init=False)

    def __post_init__(self) -> None:
        self.optimisers = make_optimisers(self.model, self.rates)

    @property
    def checkpoint(self) -> Path:
        """The one checkpoint file, replaced atomically."""
        return self.folder / "checkpoint.pt"

    def run(self, report: Callable[[Report], None], stop: Callable[[], bool]) -> None:
        """Train from the current step on; `report` is called after every step.

        It is saved after the first step, so that there is something from the beginning, and then
        every `save_seconds`.
        """
        saved = -math.inf
        while self.step < self.schedule.end and not stop():
            report(self._one())
            if time.monotonic() - saved > self.save_seconds:
                self.save()
                saved = time.monotonic()
        self.save()

    def _one(self) -> Report:
        started = time.monotonic()
        scale = self.schedule.scale(self.step)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * scale
        batch = self.batches.batch(self.step)
        losses = self.loss(batch, self.step)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.rates.clip)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += batch.tokens.numel()
        values = {name: float(value.detach()) for name, value in losses.items()}
        return Report(self.step, values, self.tokens, time.monotonic() - started, scale)

    def save(self) -> None:
        """Write the checkpoint beside the old one, then replace it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.checkpoint) as partial:
            torch.save(self.state(), partial)

    def resume(self) -> None:
        """Continue from the checkpoint."""
        self.restore(read_checkpoint(self.checkpoint))

    def state(self) -> dict[str, Any]:
        """All that a run which goes on from here needs."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "rng": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be as it was when `state` was taken."""
        self.step, self.tokens = state["step"], state["tokens"]
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        torch.set_rng_state(state["rng"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a `Trainer` kept, on the CPU: another device may have written it, and whoever takes it
    up puts it where it belongs."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def compiled_for(
    device: torch.device,
    losses: Callable[..., Any],
    layers: Iterable[nn.Module],
    dynamic: bool | None = False,
) -> Callable[..., Any]:
    """The function of a model's losses, compiled.

    On a CPU as a whole, for what it saves; elsewhere each layer by itself, which all layers of a
    kind have in common and is done within seconds. `dynamic` is torch's, of such a layer.
    """
    torch._dynamo.config.recompile_limit = 64
    if device.type == "cpu":
        return torch.compile(losses, dynamic=False)
    for layer in layers:
        layer.compile(dynamic=dynamic)
    return losses


_Parts = TypeVar("_Parts", bound=NamedTuple)


def on_device(batch: _Parts, device: torch.device) -> _Parts:
    """The named tuple of tensors `batch` where the model is."""
    return batch._make(part if part is None else part.to(device) for part in batch)


def told_to_stop() -> Callable[[], bool]:
    """Take Ctrl-C and a polite kill as a wish: whether one came since."""
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: stopping.append(received))
    return lambda: bool(stopping)


def make_optimisers(model: nn.Module, rates: Rates) -> list[torch.optim.Optimizer]:
    """Muon for matrices inside the blocks, AdamW for embeddings and norms."""
    matrices, embeddings, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif "embed" in name:
            embeddings.append(parameter)
        else:
            matrices.append(parameter)
    groups = [
        {"params": embeddings, "peak": rates.adam, "weight_decay": 0.0},
        {"params": vectors, "peak": rates.adam, "weight_decay": 0.0},
    ]
    muon: list[torch.optim.Optimizer] = []
    if rates.muon > 0.0 and matrices:
        group = {"params": matrices, "peak": rates.muon}
        muon.append(BatchedMuon([group], lr=rates.muon, weight_decay=rates.weight_decay))
    elif matrices:
        groups.append({"params": matrices, "peak": rates.adam, "weight_decay": rates.weight_decay})
    adam = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=rates.adam,
        betas=(0.9, 0.95),
        fused=True,
    )
    return [*muon, adam]
