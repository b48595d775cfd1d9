"""The trainer: its schedule, and that a resumed run is the run that was not stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.full

from edgedec.training.muon import BatchedMuon, orthogonalise  # noqa: E402 - needs torch
from edgedec.training.pretrain import (  # noqa: E402
    Batch,
    Losses,
    Rates,
    Report,
    Schedule,
    Trainer,
    make_optimisers,
)
from edgedec.training.sizes import Shape  # noqa: E402
from edgedec.training.torch_llama import TorchLlama  # noqa: E402

SHAPE = Shape(layers=2, hidden=16, ffn=32, heads=2, kv_heads=1, head_dim=8, vocab=40, context=16)


class Counting:
    """Rows that depend on the step."""

    def batch(self, step: int) -> Batch:
        rows = (torch.arange(4 * 17).view(4, 17) * (step + 1) + step) % 40
        return Batch(rows[:, :-1], rows[:, 1:])


def trainer(folder: Path, muon: float = 1e-2) -> Trainer:
    torch.manual_seed(0)
    model = TorchLlama(SHAPE)

    def loss(batch: Batch, step: int) -> Losses:
        return {"loss": model.losses(batch.tokens, batch.targets)[0]}

    return Trainer(model, loss, Counting(), Schedule(2, 12), Rates(muon, 1e-2), folder)


def run(made: Trainer, stop_at: int = 100) -> list[Report]:
    reports: list[Report] = []
    made.run(reports.append, lambda: made.step >= stop_at)
    return reports


@pytest.mark.parametrize("muon", [1e-2, 0.0])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, muon: float) -> None:
    whole = run(trainer(tmp_path / "whole", muon))
    run(trainer(tmp_path / "parts", muon), stop_at=5)
    resumed = trainer(tmp_path / "parts", muon)
    resumed.resume()
    assert resumed.step == 5
    rest = run(resumed)
    assert [report.losses for report in rest] == [report.losses for report in whole[5:]]
    assert rest[-1].tokens == whole[-1].tokens == 12 * 64


def test_training_lowers_the_loss_of_what_it_sees(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    seen = made.batches.batch(0)

    def before_and_after() -> float:
        return float(made.loss(seen, 0)["loss"].detach())

    made.loss = lambda batch, step, plain=made.loss: plain(seen, step)
    first = before_and_after()
    run(made)
    assert before_and_after() < first - 0.5


def test_a_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    made.save()
    made.save()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_schedule_warms_up_holds_and_decays() -> None:
    schedule = Schedule(warmup=10, end=100, decay_share=0.4, final=0.1)
    assert schedule.scale(0) == pytest.approx(0.1)
    assert [schedule.scale(step) for step in (9, 30, 60)] == pytest.approx([1.0] * 3)
    assert schedule.scale(80) == pytest.approx(0.55)
    assert schedule.scale(100) == pytest.approx(0.1)
    moved = Schedule(warmup=10, end=200, decay_share=0.4, final=0.1)
    assert moved.scale(60) == schedule.scale(60)


def test_the_batched_step_is_that_of_torch() -> None:
    torch.manual_seed(1)
    shapes = [(24, 16), (16, 16), (16, 32), (24, 16)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(part.detach().clone()) for part in ours]
    batched = BatchedMuon(ours, lr=0.01)
    plain = torch.optim.Muon(theirs, lr=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for left, right in zip(ours, theirs, strict=True):
            left.grad = torch.randn_like(left)
            right.grad = left.grad.clone()
        batched.step()
        plain.step()
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, atol=1e-3, rtol=1e-3)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(2)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 24, 16)).float())
    assert values.min() > 0.4
    assert values.max() < 1.5


def test_only_block_matrices_go_to_muon() -> None:
    model = TorchLlama(SHAPE)
    muon, adam = make_optimisers(model, Rates(1e-2, 1e-2))
    assert isinstance(muon, BatchedMuon)
    assert len(muon.param_groups[0]["params"]) == 4 * SHAPE.layers
    assert sum(len(group["params"]) for group in adam.param_groups) == 2 * SHAPE.layers + 2
