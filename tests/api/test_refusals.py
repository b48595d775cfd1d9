"""What the Python API cannot do, it refuses in one sentence; on the fake runtime."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedec
from edgedec.errors import (
    BundleError,
    DeviceError,
    EdgedecError,
    InputError,
    UnsupportedError,
    UsageError,
)
from edgedec.model import Model


@pytest.mark.parametrize(
    ("prompt", "kind", "message"),
    [
        ("", InputError, "the prompt is empty"),
        ([], InputError, "there is no prompt"),
        (["Hello", ""], InputError, "the prompt is empty"),
        ("x" * 200, InputError, "200 tokens.*context of 96"),
        ("a\ud800b", InputError, "not valid Unicode"),
        (["Hello", 3], UsageError, "a prompt is"),
        (5, UsageError, "a prompt is"),
        (None, UsageError, "a prompt is"),
        ({"role": "user", "content": "Hi"}, UsageError, "a prompt is"),
        ([{"role": "user", "content": "Hi"}], UnsupportedError, "chat template"),
    ],
)
def test_bad_prompts(model: Model, prompt: Any, kind: type[EdgedecError], message: str) -> None:
    with pytest.raises(kind, match=message):
        model.generate(prompt)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1.0}, "no option 'temprature'; there is: max_new_tokens, temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": "9"}, "max_new_tokens is '9'"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 2}, "top_p is 2"),
        ({"seed": -1}, "seed is -1"),
        ({"stop": [""]}, "stop ''"),
        ({"stop": 3}, "stop is 3"),
        ({"stop_tokens": 3}, "stop_tokens is 3"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"stream": 3}, "stream is 3"),
        ({"cancel": 3}, "cancel is 3"),
        ({"constraint": 3}, "constraint is 3"),
    ],
)
def test_bad_options(model: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.generate("Hello", **options)


def test_numbers_may_be_numpys(model: Model) -> None:
    found = model.generate("Hello", max_new_tokens=np.int64(2), seed=np.int64(3)).to_json()
    assert json.loads(json.dumps(found))["new_tokens"] == 2


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"threads": 100_000}, UsageError, "threads is 100000; it must be a whole number from 1"),
        ({"threads": 0}, UsageError, "threads is 0"),
        ({"threads": "2"}, UsageError, "threads is '2'"),
        (
            {"strategy": "magic"},
            UnsupportedError,
            "no 'magic' in strategies; there is: agg",
        ),
        ({"runtime": "magic"}, UnsupportedError, "no 'magic' in runtimes; there is: fake, native"),
        ({"device": "magic"}, DeviceError, "no device 'magic'; there is: fake"),
        ({"device": "fake", "runtime": "onnx"}, UnsupportedError, "onnx reads onnx"),
    ],
)
def test_what_is_not_there(
    plain_bundle: Path,
    fake_device: None,
    options: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        edgedec.load(plain_bundle, **options)


def test_a_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        edgedec.load(tmp_path)


def test_a_template_that_was_slipped_in_is_refused(
    plain_bundle: Path, fake_device: None, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(plain_bundle, tmp_path / "bundle"))
    (bundle / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(BundleError, match=r"lists no file 'chat_template\.jinja'"):
        edgedec.load(bundle)


@pytest.mark.parametrize(("text", "message"), [("", "empty"), ("x", "one token"), ("x" * 97, "97")])
def test_texts_that_cannot_be_scored(model: Model, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.score(text)


def test_only_a_text_can_be_scored(model: Model) -> None:
    with pytest.raises(UsageError, match="found list"):
        model.score(["one", "two"])  # type: ignore[arg-type]
