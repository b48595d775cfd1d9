"""What the model is put together from: devices, streaming, scoring, memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from edgedec import devices, memory, scoring
from edgedec.contracts import Rows
from edgedec.detokenise import Detokenizer
from edgedec.devices import Device
from edgedec.errors import DeviceError, UnsupportedError
from edgedec.generation import Chunk
from edgedec.manifest import Forms, OnnxForm, Segment
from edgedec.runtimes.fake import Fake
from edgedec.stopping import StopStrings
from edgedec.streaming import Writer

ONNX = Forms(onnx=OnnxForm(segments=(Segment(file="d.onnx", first=0, last=1),)))


@dataclass
class Runtime:
    """A module of the room of runtimes."""

    name: str
    PREFERENCE: int
    listed: dict[str, str | None]
    FORM: str = "onnx"
    opened: list[str] = field(default_factory=list)

    def devices(self) -> list[Device]:
        return [Device(name, self.name, "", problem) for name, problem in self.listed.items()]


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {
        "alpha": Runtime("alpha", 20, {"cpu": None, "gpu": "the driver is missing"}),
        "beta": Runtime("beta", 10, {"cpu": "needs a compiler: install one", "npu": None}),
        "gamma": Runtime("gamma", 5, {"cpu": None}, FORM="gguf"),
        "pretend": Runtime("pretend", 99, {"toy": None}, FORM="none"),
        "silent": Runtime("silent", 98, {}, FORM="none"),
    }

    def load(room: str, name: str) -> Runtime:
        if name not in modules:
            raise UnsupportedError(f"no {name!r}")
        return modules[name]

    monkeypatch.setattr(devices, "rooms", SimpleNamespace(names=lambda _: [*modules], load=load))


@pytest.mark.parametrize(
    ("device", "runtime", "expected"),
    [
        (None, None, ("cpu", "alpha")),
        ("cpu", None, ("cpu", "alpha")),
        ("npu", None, ("npu", "beta")),
        ("toy", None, ("toy", "pretend")),
        (None, "alpha", ("cpu", "alpha")),
        (None, "pretend", ("toy", "pretend")),
    ],
)
def test_the_preferred_runtime_that_can_is_chosen(
    room: None, device: str | None, runtime: str | None, expected: tuple[str, str]
) -> None:
    found, module = devices.choose(ONNX, device, runtime)
    assert (found.name, found.runtime) == expected
    assert module.name == expected[1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("device", "runtime", "kind", "message"),
    [
        ("gpu", None, DeviceError, "'gpu' of the runtime 'alpha' .* the driver is missing"),
        ("cpu", "beta", DeviceError, "'beta' cannot be used: needs a compiler"),
        ("tpu", None, DeviceError, "no device 'tpu'; there is: npu, cpu, toy"),
        (None, "gamma", UnsupportedError, "holds the forms: onnx; gamma reads gguf"),
        (None, "delta", UnsupportedError, "no 'delta'"),
        (None, "silent", UnsupportedError, "runtime silent is for tests"),
    ],
)
def test_what_is_missing_is_said(
    room: None, device: str | None, runtime: str | None, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        devices.choose(ONNX, device, runtime)


def test_every_device_is_listed_the_preferred_runtimes_first(room: None) -> None:
    listed = [device.runtime for device in devices.devices()]
    assert listed == ["gamma", "beta", "beta", "alpha", "alpha", "pretend"]


# --- streaming -------------------------------------------------------------------------------


def write(tokens: dict[int, bytes], stops: list[str]) -> tuple[Writer, list[Chunk], bool]:
    chunks: list[Chunk] = []
    spelled = Detokenizer(lambda token, first: tokens[token], 0)
    writer = Writer(spelled, StopStrings(stops), chunks.append)
    stopped = any(writer.push(token) for token in tokens)
    return writer, chunks, writer.close() or stopped


def test_half_a_character_waits_for_its_other_half() -> None:
    writer, chunks, stopped = write({0: b"a", 1: b"\xc3", 2: b"\xbc", 3: b"b"}, [])
    assert [(c.text, c.tokens, c.offset) for c in chunks] == [
        ("a", (0,), 0),
        ("ü", (1, 2), 1),
        ("b", (3,), 2),
    ]
    assert (writer.text, stopped) == ("aüb", False)


def test_half_a_character_at_the_end_is_dropped_but_not_its_token() -> None:
    writer, chunks, _ = write({0: b"a", 1: b"\xc3"}, [])
    assert writer.text == "a"
    assert [token for chunk in chunks for token in chunk.tokens] == [0, 1]


def test_what_may_be_a_stop_is_held_back() -> None:
    writer, chunks, stopped = write({0: b"ab", 1: b"c", 2: b"d", 3: b"ef", 4: b"g"}, ["bcx", "efg"])
    assert [chunk.text for chunk in chunks] == ["a", "bcd", ""]
    assert (writer.text, stopped) == ("abcd", True)


# --- scoring ---------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [None, (1, 4), (50,)])
@pytest.mark.parametrize("length", [2, 65, 130])
def test_scores_do_not_depend_on_the_chunks(widths: tuple[int, ...] | None, length: int) -> None:
    tokens = [(7 * i) % 24 for i in range(length)]
    engine = Fake(vocab=24, row_widths=widths)
    found = scoring.logprobs(engine.session(), engine.capabilities, tokens)
    assert len(found) == length - 1
    whole = Fake(vocab=24, max_rows=512)
    session = whole.session()
    parents = np.arange(-1, length - 2, dtype=np.int32)
    result = session.step(Rows(np.array(tokens[:-1], np.int32), parents))
    for row, value in enumerate(found):
        logits = result.logits(row).astype(np.float64)
        expected = logits[tokens[row + 1]] - np.log(np.exp(logits).sum())
        assert value == pytest.approx(expected, abs=1e-5)


# --- memory ----------------------------------------------------------------------------------


def test_the_peak_grows_with_what_is_used() -> None:
    before = memory.peak_rss_mb()
    block = np.ones(int(before * 1e6 / 8) + 5_000_000)
    assert memory.peak_rss_mb() >= before + 20
    del block
    assert memory.peak_rss_mb() >= before + 20
