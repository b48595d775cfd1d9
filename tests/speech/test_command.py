"""`edgedec transcribe` and `Model.transcribe` on tiny random models, from export to text."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edgedec
from edgedec.cli import _interrupt, main
from edgedec.export.pipeline import ExportOptions, export_model
from edgedec.generation import Cancel
from edgedec.manifest import Decoding
from edgedec.speech.transcribe import Ear, Request, Voice, transcribe
from edgedec.speech.transcript import clock, srt, vtt
from edgedec.speech.wav import Sound, read

from .hearing import DECODING, MOONSHINE, SPEECH, WHISPER, Reference, Words, write_checkpoint

CONFIGS = {"whisper": WHISPER, "moonshine": MOONSHINE}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: write_checkpoint(folder / name, CONFIGS[name], 1) for name in CONFIGS}


@pytest.fixture(scope="module")
def bundles(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder, found = tmp_path_factory.mktemp("exported"), {}
    for name, checkpoint in checkpoints.items():
        for form, kind in (("onnx", "fp32"), ("native", "int8")):
            found[f"{name} {form}"] = target = folder / f"{name}-{form}"
            options: Any = {"forms": (form,), "kind": kind, "verify": False}
            export_model(str(checkpoint), target, ExportOptions(**options))
    return found


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, random = tmp_path_factory.mktemp("sounds"), np.random.RandomState(0)
    found = {}
    for name, rate, seconds, channels in (
        ("short", 16_000, 1.6, 1), ("long", 16_000, 4.6, 1), ("cd", 44_100, 2.0, 1),
        ("stereo", 16_000, 1.0, 2),
    ):  # fmt: skip
        loud = np.repeat(random.rand(int(9 * seconds)), rate // 8)
        samples = (loud * random.uniform(-0.9, 0.9, len(loud)) * 32767).astype("<i2")
        header = struct.pack("<HHIIHH", 1, channels, rate, 2 * rate, 2 * channels, 16)
        data = samples[: int(seconds * rate)].repeat(channels).tobytes()
        body = b"WAVEfmt " + struct.pack("<I", 16) + header + b"data" + struct.pack("<I", len(data))
        found[name] = folder / f"{name}.wav"
        found[name].write_bytes(b"RIFF" + struct.pack("<I", len(body) + len(data)) + body + data)
    return found


def run(*args: str | Path, stdin: bytes = b"") -> Result:
    given = ["transcribe", *map(str, args), "--strategy", "plain"]
    return CliRunner().invoke(main, given, input=stdin, prog_name="edgedec")


def by_reference(name: str, folder: Path, sound: Sound, request: Request) -> Any:
    whisper = name == "whisper"
    ear: Ear = Reference(folder, CONFIGS[name], DECODING if whisper else Decoding())
    known = Voice(ear.architecture, Words(), SPEECH if whisper else None)  # type: ignore
    return transcribe(ear, known, sound, request)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("sound", ["short", "long", "cd"])
def test_the_model_writes_what_the_reference_does(
    name: str, sound: str, bundles: dict[str, Path], checkpoints: dict[str, Path], sounds: Any
) -> None:
    heard, request = read(sounds[sound]), Request(condition=sound == "long")
    expected = by_reference(name, checkpoints[name], heard, request)
    with edgedec.load(bundles[f"{name} onnx"], strategy="plain") as model:
        found = model.transcribe(heard, request)
        again = model.transcribe(sounds[sound], request)
    assert found.segments == expected.segments
    assert (found.text, found.language) == (expected.text, expected.language)
    assert again == found


@pytest.mark.parametrize("name", CONFIGS)
def test_drafting_changes_no_word(name: str, bundles: dict[str, Path], sounds: Any) -> None:
    with edgedec.load(bundles[f"{name} native"], strategy="plain") as model:
        plain = model.transcribe(sounds["long"])
    with edgedec.load(bundles[f"{name} native"], strategy="token_recycling") as model:
        assert model.transcribe(sounds["long"]) == plain
    assert len(plain.segments) > 1


# --- the command ---------------------------------------------------------------------------------


def test_text_goes_to_stdout_and_numbers_to_stderr(bundles: Any, sounds: Any) -> None:
    bundle = bundles["moonshine native"]
    result = run("-m", bundle, sounds["short"])
    with edgedec.load(bundle, strategy="plain") as model:
        assert result.stdout == model.transcribe(sounds["short"]).text + "\n"
    assert result.exit_code == 0
    assert "1.6 s of sound in" in result.stderr
    piped = run("-m", bundle, "-", stdin=sounds["short"].read_bytes())
    assert piped.stdout == result.stdout


def test_lines_with_times(bundles: Any, sounds: Any) -> None:
    asked = "--timestamps", "--language", "de", "--task", "translate"
    result = run("-m", bundles["whisper native"], *asked, sounds["long"])
    with edgedec.load(bundles["whisper native"], strategy="plain") as model:
        found = model.transcribe(sounds["long"], Request("de", "translate", True))
    lines = result.stdout.splitlines()
    assert len(lines) == len(found.segments) > 1
    last = found.segments[-1]
    assert lines[-1] == f"[{clock(last.start)} --> {clock(last.end)}] {last.text}"


def test_a_document_and_subtitles(bundles: Any, sounds: Any, tmp_path: Path) -> None:
    files = tmp_path / "x.srt", tmp_path / "x.vtt"
    asked = "--json", "--srt", files[0], "--vtt", files[1]
    result = run("-m", bundles["whisper native"], *asked, sounds["short"])
    document = json.loads(result.stdout)
    assert list(document) == ["schema", "files"]
    (entry,) = document["files"]
    assert list(entry)[:3] == ["file", "seconds", "text"]
    assert entry["finish_reason"] == "stop"
    with edgedec.load(bundles["whisper native"], strategy="plain") as model:
        found = model.transcribe(sounds["short"], Request(timestamps=True))
    assert len(entry["segments"]) == len(found.segments)
    assert files[0].read_text() == srt(found.segments)
    assert files[1].read_text() == vtt(found.segments)


def test_subtitles_of_a_model_without_timestamps(bundles: Any, sounds: Any, tmp_path: Path) -> None:
    run("-m", bundles["moonshine native"], "--srt", tmp_path / "x.srt", sounds["long"])
    assert "00:00:00,000 --> 00:00:0" in (tmp_path / "x.srt").read_text()


def test_several_files(bundles: Any, sounds: Any) -> None:
    names = sounds["short"], sounds["cd"]
    result = run("-m", bundles["moonshine native"], *names)
    lines = result.stdout.splitlines()
    assert (lines[0], lines[2]) == (f"{names[0]}:", f"{names[1]}:")
    document = json.loads(run("-m", bundles["moonshine native"], "--json", *names).stdout)
    assert [each["text"] for each in document["files"]] == [lines[1], lines[3]]


def test_ctrl_c_gives_what_there_is(
    bundles: Any, sounds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def at_once(cancel: Cancel) -> Iterator[None]:
        cancel.set()
        yield

    monkeypatch.setattr(_interrupt, "stopping", at_once)
    result = run("-m", bundles["moonshine native"], "--json", sounds["long"], sounds["short"])
    assert result.exit_code == 130
    (entry,) = json.loads(result.stdout)["files"]
    assert (entry["finish_reason"], entry["text"]) == ("cancelled", "")


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["stereo"], 1, "has 2 channels"),
        (["stereo", "--mix"], 0, ""),
        (["short", "--language", "xx"], 2, "the model knows: de, en, fr"),
        (["short", "cd", "--srt", "x.srt"], 2, "take one AUDIO"),
        (["short", "--no-timestamps", "--vtt", "x.vtt"], 2, "leave out --no-timestamps"),
        (["short", "--srt", "no/where/x.srt"], 1, "no folder"),
        (["nothing.wav"], 1, "is no file"),
    ],
)
def test_what_goes_wrong_is_told(
    args: list[str], code: int, says: str, bundles: Any, sounds: Any
) -> None:
    given = [str(sounds.get(each, each)) for each in args]
    result = run("-m", bundles["whisper native"], *given)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_damaged_sound(bundles: Any, sounds: Any) -> None:
    cut = sounds["short"].read_bytes()[:90]
    for data, says in ((cut, "is cut short"), (b"", "is empty"), (b"no sound", "is no WAV file")):
        result = run("-m", bundles["moonshine native"], "-", stdin=data)
        assert result.exit_code == 1
        assert f"edgedec: standard input {says}" in result.stderr


def test_a_model_that_reads(plain_bundle: Path, fake_device: None, sounds: Any) -> None:
    result = run("-m", plain_bundle, "--device", "fake", sounds["short"])
    assert result.exit_code == 1
    assert "it does not hear" in result.stderr
