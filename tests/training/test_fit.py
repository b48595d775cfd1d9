"""The frame around every trainer: a run that is interrupted anywhere is the run that was not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.full

from torch import Tensor, nn  # noqa: E402 - needs torch

from edgedec.bundle import cache_folder  # noqa: E402
from edgedec.errors import InputError, StateError, UnsupportedError, UsageError  # noqa: E402
from edgedec.training import fit as frame  # noqa: E402
from edgedec.training import trainee, trainers  # noqa: E402
from edgedec.training.fit import Cosine, Fitted, Limits, News, Terms, fit, read_options  # noqa: E402
from edgedec.training.texts import Texts, Written  # noqa: E402
from edgedec.training.trainee import Batch, Tally, expected, points, tally  # noqa: E402

if TYPE_CHECKING:
    from .conftest import Stopper

VOCAB = 12


@dataclass(frozen=True)
class Options(trainee.Options):
    rate: float = 0.1
    steps: int = 12
    batch: int = 4
    length: int = 20
    every: int = 3
    depth: int = 2


class Table(trainee.Trainee):
    """Guesses the next tokens by the last one: a table for each depth."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(options.depth, VOCAB, VOCAB) * 0.01)

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        guessed, wanted = self._guessed(batch)
        return {"loss": nn.functional.cross_entropy(guessed.flatten(0, 1), wanted.flatten())}

    def acceptance(self, batch: Batch) -> Tally:
        guessed, wanted = self._guessed(batch)
        return tally(guessed.argmax(-1) == wanted)

    def _guessed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        depth = len(self.table)
        place, valid = points(batch, 4, depth)
        text = torch.arange(len(place))[:, None].expand_as(place)[valid]
        rows = place[valid]
        ahead = rows[:, None] + torch.arange(1, depth + 1)
        return self.table[:, batch.tokens[text, rows]].transpose(0, 1), batch.tokens[
            text[:, None], ahead
        ]


def counting(count: int, seed: int = 0) -> list[Written]:
    """Texts in which a token is followed by the next number, mostly."""
    random = np.random.default_rng(seed)
    steps = [np.where(random.random(20) < 0.9, 1, 5) for _ in range(count)]
    return [Written((np.cumsum(step) % VOCAB).astype(np.int32), 3) for step in steps]


TEXTS = Texts(counting(30), counting(8, seed=1), "counted")


def terms(**changes: object) -> Terms:
    return (
        Terms("table", "f" * 64, "counted", Options(), 7, **changes)
        if not changes
        else replace(terms(), **changes)
    )  # type: ignore[arg-type]


def table(seed: int = 7, options: Options | None = None) -> Table:
    torch.manual_seed(seed)
    return Table(options or Options())


def test_what_is_learned_is_measured() -> None:
    heard: list[News] = []
    model = table()
    done = fit(model, TEXTS, terms(), Limits(), heard.append)
    assert done is not None
    assert (done.steps, done.end) == (12, "all steps")
    assert [step for step, _ in done.history] == [0, 3, 6, 9, 12]
    assert done.acceptance.expected > expected(done.history[0][1]) + 0.5
    assert [news.step for news in heard] == [0, *range(1, 13)]
    assert [news.step for news in heard if news.measured] == [0, 3, 6, 9, 12]
    assert frame.measure(model, TEXTS, Options()) == done.acceptance


@pytest.mark.parametrize("times", [1, 2, 3, 4, 5, 8, 12])
def test_a_run_that_is_interrupted_is_the_same_run(times: int, stop_after: Stopper) -> None:
    whole = table()
    expected_end = fit(whole, TEXTS, terms(), Limits(fresh=True))
    assert expected_end is not None
    found = fit(table(), TEXTS, terms(), Limits(fresh=True), stop=stop_after(times))
    rounds = 0
    while found is None:
        rounds += 1
        # Another process: other dice, other starting values.
        model = table(seed=rounds)
        found = fit(model, TEXTS, terms(), Limits(), stop=stop_after(times))
        if times == 1 and found is None:
            assert rounds < 30
    assert_same(found, expected_end)
    torch.testing.assert_close(model.table if rounds else whole.table, whole.table, atol=0, rtol=0)
    assert len(list(terms().folder.iterdir())) == 1


def assert_same(found: Fitted, other: Fitted) -> None:
    assert replace(found, seconds=0) == replace(other, seconds=0)


def test_a_process_that_is_killed_repeats_the_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = table()
    end = fit(whole, TEXTS, terms(), Limits(fresh=True))
    monkeypatch.setattr(frame, "SAVE_SECONDS", 0.0)

    def killed(news: News) -> None:
        if news.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(table(), TEXTS, terms(), Limits(fresh=True), killed)
    model = table(seed=1)
    found = fit(model, TEXTS, terms(), Limits())
    assert found is not None
    assert end is not None
    assert_same(found, end)
    torch.testing.assert_close(model.table, whole.table, atol=0, rtol=0)


def test_a_process_that_is_killed_in_its_first_minute_has_a_checkpoint() -> None:
    whole = table()
    end = fit(whole, TEXTS, terms(), Limits(fresh=True))

    def killed(news: News) -> None:
        if news.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(table(), TEXTS, terms(), Limits(fresh=True), killed)
    heard: list[News] = []
    model = table(seed=1)
    found = fit(model, TEXTS, terms(), Limits(), heard.append)
    assert heard[0].step == 2, "the first step was kept"
    assert found is not None
    assert end is not None
    assert_same(found, end)
    torch.testing.assert_close(model.table, whole.table, atol=0, rtol=0)


class Searching(Table):
    """It finds something out before it learns, in four parts."""

    found = 0

    def prepare(self, hear: trainee.Hear = lambda share: None) -> None:
        work = trainee.Work(4, hear)
        for _ in range(4):
            self.found += 1
            work.add()


def test_a_search_is_heard_and_can_be_ended(stop_after: Stopper) -> None:
    heard: list[News] = []
    torch.manual_seed(7)
    model = Searching(Options())
    assert fit(model, TEXTS, terms(), Limits(), heard.append, stop_after(2)) is None
    assert model.found == 3
    assert [news.searched for news in heard] == [0.25, 0.5]
    assert not terms().folder.exists(), "nothing was learned yet"
    torch.manual_seed(7)
    model = Searching(Options())
    assert fit(model, TEXTS, terms(), Limits(), heard.append) is not None
    assert [news.searched for news in heard[2:6]] == [0.25, 0.5, 0.75, 1.0]


def test_a_measurement_can_be_ended(stop_after: Stopper) -> None:
    with pytest.raises(trainee.Stopped):
        frame.measure(table(), TEXTS, Options(), stop_after(0))


def test_a_finished_run_is_not_repeated() -> None:
    first = fit(table(), TEXTS, terms(), Limits())
    heard: list[News] = []
    model = table(seed=3)
    again = fit(model, TEXTS, terms(), Limits(), heard.append)
    assert not heard
    assert first is not None
    assert again is not None
    assert_same(again, first)
    assert frame.measure(model, TEXTS, Options()) == first.acceptance


def test_the_best_is_kept_and_the_rest_is_spared() -> None:
    class Worsening(Table):
        """After two measurements it forgets what it knows."""

        measured = 0

        def acceptance(self, batch: Batch) -> Tally:
            self.measured += 1
            return Tally((self.rights(), 0), (100, self.rights()))

        def rights(self) -> int:
            return {1: 10, 2: 10, 3: 50, 4: 50}.get(self.measured, 20)

    torch.manual_seed(0)
    options = Options(steps=300, patience=4)
    model = Worsening(options)
    done = fit(model, TEXTS, terms(options=options), Limits())
    assert done is not None
    assert done.end == "no more progress"
    # Two batches are held out: the second measurement, after step 3, was the best.
    assert done.acceptance.right[0] == 100
    assert done.steps == 3 * (1 + 4)


def test_time_ends_a_run() -> None:
    options = Options(steps=100_000, patience=10**6, every=50)
    done = fit(table(), TEXTS, terms(options=options), Limits(minutes=0.01))
    assert done is not None
    assert frame.TIMED <= done.steps < 100_000
    assert done.seconds < 10
    assert done.history[-1][0] == done.steps


def test_a_run_with_other_terms_is_not_gone_on_with(stop_after: Stopper) -> None:
    assert fit(table(), TEXTS, terms(), Limits(), stop=stop_after(6)) is None
    other = Options(rate=0.2)
    for changes, what in (
        ({"texts": "others"}, "other texts"),
        ({"seed": 8}, "other seed"),
        ({"options": other}, "other options"),
    ):
        with pytest.raises(StateError, match=f"{what} stopped at step 4.*--fresh"):
            fit(table(), TEXTS, terms(**changes), Limits())
    assert fit(table(), TEXTS, terms(options=other), Limits(fresh=True)) is not None
    # What was finished is in nobody's way, and it is said that it is not gone on with.
    heard: list[News] = []
    assert fit(table(), TEXTS, terms(), Limits(), heard.append) is not None
    assert [each.note for each in heard if each.note] == [
        "it was trained with other options: begins anew"
    ]


def test_a_damaged_checkpoint_is_told() -> None:
    terms().folder.mkdir(parents=True)
    (terms().folder / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(StateError, match=r"cannot be read.*--fresh"):
        fit(table(), TEXTS, terms(), Limits())
    assert fit(table(), TEXTS, terms(), Limits(fresh=True)) is not None


def test_a_checkpoint_of_another_version_is_told() -> None:
    assert fit(table(), TEXTS, terms(), Limits()) is not None
    path = terms().folder / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state["due"]
    torch.save(state, path)
    with pytest.raises(StateError, match=r"says nothing of due.*--fresh"):
        fit(table(), TEXTS, terms(), Limits())


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    class Broken(Table):
        def loss(self, batch: Batch) -> Mapping[str, Tensor]:
            return {"loss": self.table.sum() * torch.nan}

    with pytest.raises(UsageError, match=r"no number at step 1.*--option table\.rate"):
        fit(Broken(Options()), TEXTS, terms(), Limits())


def test_what_has_no_parameters_is_only_measured() -> None:
    class Fixed(trainee.Trainee):
        def acceptance(self, batch: Batch) -> Tally:
            return Tally((3, 1), (4, 3))

    done = fit(Fixed(), TEXTS, terms(), Limits())
    assert done is not None
    assert (done.steps, done.end) == (0, "nothing to train")
    assert done.acceptance.shares == pytest.approx([3 / 4, 1 / 3])
    assert not (cache_folder() / "training").exists()


def test_nothing_to_measure_on() -> None:
    with pytest.raises(InputError, match="held-out texts"):
        fit(table(), replace(TEXTS, held=[]), terms(), Limits())


def test_tallies_count_what_is_reached() -> None:
    hits = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.bool)
    found = tally(hits)
    assert found == Tally((3, 2, 1), (4, 3, 2))
    assert found.plus(Tally()).plus(Tally((1,), (1,))) == Tally((4, 2, 1), (5, 3, 2))
    # Each text's unbroken run of hits, on average.
    assert found.expected == pytest.approx((2 + 1 + 0 + 3) / 4)


def test_the_rate_falls_along_a_cosine() -> None:
    schedule = Cosine(warmup=4, end=100)
    assert schedule.scale(0) == pytest.approx(0.25)
    assert schedule.scale(50) == pytest.approx(0.51)
    assert schedule.scale(100) == schedule.scale(200) == pytest.approx(0.02)


def test_options_are_read_by_name() -> None:
    given = {"table.rate": 1, "table.depth": 3, "other.depth": 5}
    assert read_options(Options, "table", given) == Options(rate=1.0, depth=3)
    with pytest.raises(UsageError, match="no option 'width'; there is: rate"):
        read_options(Options, "table", {"table.width": 1})
    with pytest.raises(UsageError, match=r"table\.steps is int, found 1\.5"):
        read_options(Options, "table", {"table.steps": 1.5})


def test_trainers_are_found_by_name() -> None:
    known = trainers.names()
    assert "prompt_decoding" in known
    assert not {"fit", "frozen", "trainee", "texts", "torch_llama"} & set(known)
    (chosen,) = trainers.choose(["prompt_decoding"], {"prompt_decoding.prompts": 2})
    assert chosen.options.prompts == 2  # type: ignore[attr-defined]
    assert [each.name for each in trainers.choose([])] == known
    with pytest.raises(UnsupportedError, match="'fit' is no strategy that can be trained"):
        trainers.choose(["fit"])
    with pytest.raises(UsageError, match=r"STRATEGY\.FIELD=VALUE"):
        trainers.choose(["prompt_decoding"], {"prompts": 2})


def test_devices_that_can_be_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with trainers.on("cpu"):
        assert torch.zeros(1).device.type == "cpu"
    with pytest.raises(UsageError, match="trained on cpu or cuda, found the device 'npu'"):
        trainers.on("npu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="finds no GPU with CUDA here: install"):
        trainers.on("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert trainers.on("cuda") == torch.device("cuda")


def test_a_checkpoint_stands_where_its_bundle_says(tmp_path: Path) -> None:
    assert terms().folder == cache_folder() / "training" / ("f" * 16) / "table"
