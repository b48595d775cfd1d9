"""The whole of it on the fake runtime: what is measured, left out, and told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedec import drafting
from edgedec.benchmark import memory, suite, workloads
from edgedec.benchmark.prompts import Prompt
from edgedec.benchmark.rows import Row
from edgedec.benchmark.stand import Place, Ways, ways, where
from edgedec.benchmark.suite import Ears, Settings
from edgedec.benchmark.workloads import Workload
from edgedec.bundle import cache_folder, open_bundle
from edgedec.errors import DeviceError, InputError, UnsupportedError, UsageError
from edgedec.generation import Cancel
from edgedec.runtimes import native
from tests.decode.looped import TRAINED

needs_engine = pytest.mark.skipif(not native.built(), reason="the C engine was not built")
SHORT = Workload("short", "", tuple(Prompt((f"prompt {i}: abcabc",)) for i in range(12)))
LIVELY = Workload("lively", "", SHORT.prompts, temperature=0.9)
FORCED = Workload("given", "", text="the cat sat on the mat. " * 12)


@pytest.fixture
def run(plain_bundle: Path, fake_device: None) -> Callable[..., list[Row]]:
    def measure(*what: Workload, **more: Any) -> list[Row]:
        ears = Ears(**{name: more.pop(name) for name in ("note", "tell", "cancel") if name in more})
        told = {"ways": Ways(), "pairs": 2, "tokens": 24} | more
        settings = Settings(place=Place(str(plain_bundle), "fake"), workloads=what, **told)
        return list(suite.run(settings, ears))

    return measure


def test_a_simulated_device_tells_no_speed(run: Any) -> None:
    rows = run(SHORT, LIVELY)
    assert [(row.workload, row.strategy) for row in rows] == [
        ("short", "plain"),
        ("short", "auto"),
        ("lively", "plain"),
        ("lively", "auto"),
    ]
    for row in rows:
        assert row.simulated
        assert row.identical
        assert row.ratios == ()
        assert (row.pairs, row.new_tokens) == (2, 48)
        unknown = (row.tokens_per_second, row.speedup, row.speedup_low, row.speedup_high)
        assert {*unknown, row.time_to_first_token_ms, row.peak_rss_mb} == {None}
    assert rows[0].tokens_per_pass == 1.0


def test_given_texts_and_every_strategy(run: Any) -> None:
    notes: list[str] = []
    rows = run(SHORT, FORCED, ways=Ways(("all",)), note=notes.append)
    lacking = ["draft_model", "aggressive", *TRAINED]
    named = [name for name in drafting.names() if name not in ("plain", *lacking)]
    assert [row.strategy for row in rows] == ["plain", *named] * 2
    assert [row.forced for row in rows] == [False] * (len(named) + 1) + [True] * (len(named) + 1)
    for name in lacking:
        assert any(f"{name} is left out" in note for note in notes)
    copied = next(r for r in rows if r.forced and r.strategy == "prompt_lookup")
    assert copied.acceptance is not None
    assert copied.depths[0][0] >= copied.depths[0][1] > 0


def test_plain_beside_itself_and_policies_by_name(run: Any) -> None:
    rows = run(SHORT, ways=Ways(("plain", "trigram"), ("best", "fixed")))
    assert [row.strategy for row in rows] == ["plain", "plain/fixed", "trigram", "trigram/fixed"]


def test_prompts_that_do_not_fit_are_told(run: Any) -> None:
    long = Workload("long", "", (*SHORT.prompts[:2], Prompt(("x" * 90,))))
    notes: list[str] = []
    (_, row) = run(long, note=notes.append)
    assert row.pairs == 2
    assert notes == ["long: 1 of 3 prompts do not fit into what the model reads and are left out"]
    notes.clear()
    (_, row) = run(long, note=notes.append, pairs=9)
    assert row.pairs == 2
    assert notes[1] == "long has prompts for 2 pairs only: none is answered twice"
    with pytest.raises(InputError, match="no prompt fits"):
        run(Workload("long", "", (Prompt(("x" * 90,)),)))


def test_progress_is_told_and_the_end_can_be_asked_for(run: Any) -> None:
    told: list[tuple[str, float]] = []
    run(SHORT, tell=lambda what, share: told.append((what, share)))
    assert told == [("fake short", 0.0), ("fake short", 0.5), ("fake short", 1.0)]
    cancel = Cancel()

    def stop(what: str, share: float) -> None:
        if what == "fake lively":
            cancel.set()

    rows = run(SHORT, LIVELY, tell=stop, cancel=cancel)
    assert {row.workload for row in rows} == {"short"}
    assert len(rows) == 2


@needs_engine
def test_the_end_can_be_asked_for_while_a_shape_is_written(tiny: str) -> None:
    cancel = Cancel()
    cancel.set()
    place = Place(replay=tiny)
    settings = Settings(place, Ways(("plain",)), (SHORT,), ("native",))
    assert list(suite.run(settings, Ears(cancel=cancel))) == []
    assert list((cache_folder() / "bench").glob("*")) == []


def test_options_go_to_those_that_have_them() -> None:
    notes: list[str] = []
    asked = Ways(("trigram", "prompt_lookup"), options={"trigram.nodes": 3})
    found = ways(asked, notes.append)
    assert [way.options for way in found] == [{"trigram.nodes": 3}, {}]
    assert found[0].drafting.parts[0].strategy.nodes == 3  # type: ignore[attr-defined]
    (both,) = ways(Ways(("auto",), options={"trigram.nodes": 3}), notes.append)
    assert both.options == {"trigram.nodes": 3}
    assert notes == []
    for options, message in (({"draft_model.depth": 3}, "belongs to no"), ({"size": 3}, "size")):
        with pytest.raises(UsageError, match=message):
            ways(Ways(("trigram",), options=options), notes.append)
    with pytest.raises(UsageError, match=r"draft_model\.bundle"):
        ways(Ways(("draft_model",)), notes.append)
    with pytest.raises(UsageError, match=r"draft_model\.bundle"):
        ways(Ways(("all", "draft_model")), notes.append)
    with pytest.raises(UnsupportedError, match="no 'magic'"):
        ways(Ways(("magic",)), notes.append)
    with pytest.raises(UnsupportedError, match="no policy 'magic'"):
        ways(Ways(("trigram",), ("magic",)), notes.append)


@needs_engine
def test_where_a_bundle_is_measured(fake_device: None) -> None:
    stories = open_bundle("stories")
    assert where(stories, Place(), ()) == ["native", "onnx"]
    assert where(stories, Place(kv_type="int8"), ()) == ["native"]
    assert where(stories, Place(replay="135m"), ()) == ["native"]
    assert where(stories, Place(), ("onnx", "onnx")) == ["onnx"]
    assert where(stories, Place(device="fake"), ()) == ["fake"]
    with pytest.raises(DeviceError, match=r"'npu' of the runtime 'onnx'.*edgedec\[qnn\]"):
        where(stories, Place(device="npu"), ())
    with pytest.raises(UnsupportedError, match="no 'magic'"):
        where(stories, Place(), ("magic",))


def test_memory_that_cannot_be_measured_is_unknown(tmp_path: Path) -> None:
    order = memory.Order(
        model=str(tmp_path / "nothing"), device="cpu", runtime="native", threads=None,
        kv_type=None, strategy="plain", policy="best", options={}, prompts=SHORT.prompts[:1],
        temperature=0.0, longest=4, seed=0,
    )  # fmt: skip
    assert memory.peak_mb(order) is None


@needs_engine
def test_speeds_of_a_real_model() -> None:
    settings = Settings(
        place=Place(),
        ways=Ways(("prompt_lookup",)),
        workloads=(workloads.shipped("edit"), workloads.shipped("maths")),
        runtimes=("native",),
        pairs=2,
        tokens=48,
        weigh=False,
    )
    rows = list(suite.run(settings, Ears()))
    assert [(row.workload, row.strategy) for row in rows] == [
        ("edit", "plain"),
        ("edit", "prompt_lookup"),
        ("maths", "plain"),
        ("maths", "prompt_lookup"),
    ]
    for row in rows:
        assert row.identical
        assert not row.simulated
        assert row.tokens_per_second is not None and row.tokens_per_second > 0
        assert row.speedup is not None and row.speedup > 0
        assert row.time_to_first_token_ms is not None and row.time_to_first_token_ms > 0
        assert row.peak_rss_mb is None
    assert len(rows[1].ratios) == 2
