"""Measured once, then found: what `edgedec.load` and `edgedec profile` get."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

import edgedec
from edgedec import costs, devices, profiler
from edgedec.architecture import Architecture
from edgedec.bundle import Bundle, cache_folder, open_bundle
from edgedec.devices import Device, EngineOptions
from edgedec.errors import UnsupportedError
from edgedec.profiler import Subject, bandwidth, measure, store
from edgedec.profiler.measure import Effort, Measured
from edgedec.runtimes import native

needs_engine = pytest.mark.skipif(not native.built(), reason="the C engine was not built")


@pytest.fixture
def stories() -> Iterator[Subject]:
    """The shipped model, open."""
    bundle = open_bundle("stories")
    options = EngineOptions(threads=1)
    place, module = devices.choose(bundle.manifest.forms, None, None)
    engine = module.open(bundle, options)
    yield Subject(engine, bundle, place, options)
    engine.close()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Effort]:
    """The measurements that were made, each of which takes no time and gives the same costs."""
    made: list[Effort] = []

    def pretend(engine: Any, model: Architecture, effort: Effort, *, tell: Any = None) -> Measured:
        made.append(effort)
        table = costs.Costs((1, 8), (128,), ((1e-3, 2e-3),), (1e-4, 2e-4), depth=model.layers)
        return Measured(table, {1: (1e-3, 2e-3)}, 128, 9, 0, 1.0)

    monkeypatch.setattr(measure, "measure", pretend)
    monkeypatch.setattr(bandwidth, "read_bandwidth", lambda threads, seconds: 20e9)
    return made


def costs_of(subject: Subject) -> costs.Costs:
    return profiler.costs_for(subject.engine, subject.bundle, subject.device, subject.options)


def files() -> list[Path]:
    return sorted((cache_folder() / "profiles").glob("*"))


def test_a_real_measurement_is_stored_and_reused(stories: Subject) -> None:
    first = costs_of(stories)
    assert first.depth == stories.bundle.manifest.architecture.layers
    assert first.rows[0] == 1
    assert len(files()) == 1
    assert costs_of(stories) == first


def test_only_the_first_load_measures(stories: Subject, measured: list[Effort]) -> None:
    assert costs_of(stories) == costs_of(stories) == costs_of(stories)
    assert measured == [measure.QUICK]


def test_a_full_profile_replaces_a_quick_one(stories: Subject, measured: list[Effort]) -> None:
    costs_of(stories)
    quick = profiler.profile(stories, quick=True)
    assert (quick.stored, quick.profile.effort) == (True, "quick")
    assert quick.profile.bandwidth == 20e9, "measured now, and stored with the rest"
    assert store.read(quick.profile.key)[0] == quick.profile
    full = profiler.profile(stories)
    assert (full.stored, full.profile.effort) == (False, "full")
    assert profiler.profile(stories) == profiler.Outcome(full.profile, stored=True)
    assert profiler.profile(stories, quick=True).profile == full.profile
    costs_of(stories)
    assert measured == [measure.QUICK, measure.FULL]
    assert profiler.profile(stories, fresh=True).stored is False
    assert measured[2:] == [measure.FULL]
    assert len(files()) == 1


@needs_engine
def test_the_key_is_what_runs(stories: Subject) -> None:
    key = profiler.key_of(stories)
    assert (key.runtime, key.device, key.bundle) == ("native", "cpu", stories.bundle.hash)
    assert (key.threads, key.kv_type) == (1, "fp16")
    assert key.fingerprint.isa == stories.engine.isa  # type: ignore[attr-defined]
    assert key.version.startswith(edgedec.__version__)
    assert key == profiler.key_of(stories)


@needs_engine
@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"threads": 2}, "threads"),
        ({"kv_type": "int8"}, "kv_type"),
        ({"runtime": "onnx"}, "runtime"),
    ],
)
def test_other_options_are_other_profiles(
    stories: Subject, measured: list[Effort], given: dict[str, Any], field: str
) -> None:
    runtime = given.pop("runtime", None)
    options = EngineOptions(**{"threads": 1} | given)
    place, module = devices.choose(stories.bundle.manifest.forms, None, runtime)
    engine = module.open(stories.bundle, options)
    other = Subject(engine, stories.bundle, place, options)
    assert getattr(profiler.key_of(other), field) != getattr(profiler.key_of(stories), field)
    costs_of(stories)
    costs_of(other)
    assert len(measured) == 2
    assert len(files()) == 2
    engine.close()


def test_another_bundle_or_version_is_another_profile(
    stories: Subject, measured: list[Effort], monkeypatch: pytest.MonkeyPatch
) -> None:
    costs_of(stories)
    again = Bundle(stories.bundle.path, stories.bundle.manifest, "0" * 64)
    costs_of(Subject(stories.engine, again, stories.device, stories.options))
    monkeypatch.setattr(type(stories.engine), "version", "0.0.9")
    costs_of(stories)
    assert len(measured) == 3


def test_default_threads_are_those_in_use(stories: Subject) -> None:
    place, module = devices.choose(stories.bundle.manifest.forms, None, None)
    engine = module.open(stories.bundle, EngineOptions())
    key = profiler.key_of(Subject(engine, stories.bundle, place, EngineOptions()))
    assert key.threads == engine.threads >= 1  # type: ignore[attr-defined]
    engine.close()


def test_a_damaged_profile_is_made_anew_and_that_is_told(
    stories: Subject, measured: list[Effort]
) -> None:
    whole = profiler.profile(stories).profile
    (path,) = files()
    path.write_text('{"schema": 1')
    again = profiler.profile(stories)
    # The loop's own time is real, that of the steps is scripted here.
    assert replace(again.profile, draft_ms={}, host=0.0) == replace(whole, draft_ms={}, host=0.0)
    assert again.stored is False
    (note,) = again.notes
    assert note.startswith("the stored profile was made anew: ")
    assert "\n" not in note
    path.write_bytes(msgspec.json.encode(replace(whole, rows=(1, 9))).replace(b"fp16", b"int8"))
    costs_of(stories)
    assert store.read(whole.key)[1] is None
    assert len(measured) == 3


def test_a_rough_profile_is_used_but_not_stored(
    stories: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = costs.Costs((1,), (32,), ((0.7,),), (0.0,), depth=6)
    rough = Measured(table, {}, 32, 0, 0, 2.0)
    monkeypatch.setattr(measure, "measure", lambda *args, **given: rough)
    monkeypatch.setattr(bandwidth, "read_bandwidth", lambda threads, seconds: 1e9)
    assert costs_of(stories).step(0, 1)[1] == 0.7
    assert files() == []
    assert "not stored" in profiler.profile(stories).notes[0]


def test_a_cache_that_cannot_be_written_is_told(
    stories: Subject, measured: list[Effort], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDEC_CACHE", "/dev/null")
    assert costs_of(stories) == costs_of(stories)
    assert len(measured) == 2
    assert "cannot be written" in profiler.profile(stories).notes[0]


def test_ctrl_c_leaves_nothing(stories: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        costs_of(stories)
    assert files() == []


@pytest.mark.usefixtures("fake_device")
def test_what_is_simulated_is_never_measured(plain_bundle: Path, measured: list[Effort]) -> None:
    bundle = open_bundle(plain_bundle)
    options = EngineOptions(device="fake")
    place, module = devices.choose(bundle.manifest.forms, "fake", None)
    subject = Subject(module.open(bundle, options), bundle, place, options)
    assert costs_of(subject) == costs.flat()
    with pytest.raises(UnsupportedError, match="simulated only"):
        profiler.profile(subject)
    assert measured == []
    assert not profiler.simulated(Device("cpu", "onnx", ""))
