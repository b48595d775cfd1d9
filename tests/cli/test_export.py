"""`edgedec export` as it is typed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgedec.cli import main
from edgedec.models import describe

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a checkpoint called `tiny` in it."""
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    (tiny / "config.json").write_text(json.dumps(CONFIG))
    random = np.random.default_rng(0)
    sources = describe(CONFIG)[1].values()
    weights = {s.name: random.standard_normal(s.shape).astype("f4") for s in sources}
    save_file(weights, tiny / "model.safetensors")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tiny / "tokenizer.json"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edgedec(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["export", *arguments])


def test_the_report_says_what_was_made(folder: Path) -> None:
    result = edgedec("tiny")
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["bundle"] == "tiny-edgedec"
    assert "int8/64" in lines["weights"]
    assert lines["quality"].startswith("KL ") and "64 tokens of heldout.txt" in lines["quality"]
    assert result.stderr == ""
    assert CliRunner().invoke(main, ["info", "tiny-edgedec", "--verify"]).exit_code == 0


def test_json_is_one_document(folder: Path) -> None:
    result = edgedec("tiny", "-o", "out", "--kind", "int4", "--keep", "up=int8", "--cut", "1",
                     "--name", "my model", "--json")  # fmt: skip
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert set(document) == {
        "schema", "path", "name", "family", "parameters", "source", "source_bytes", "bundle_bytes",
        "quantisation", "cuts", "quality", "seconds", "files",
    }  # fmt: skip
    assert document["name"] == "my model"
    assert document["cuts"] == [1]
    assert document["quantisation"]["up"] == "int8/32"
    assert document["quantisation"]["down"] == "int4/64"
    assert set(document["quality"]) == {"max_error", "kl", "top1", "tokens", "text"}
    on_disk = {p.name: p.stat().st_size for p in (folder / "out").iterdir()}
    assert document["files"] == {n: s for n, s in on_disk.items() if n != "manifest.json"}


def test_a_text_of_one_s_own_or_no_comparison(folder: Path) -> None:
    (folder / "own.txt").write_text("Not much of a text.")
    result = edgedec("tiny", "-o", "a", "--text", "own.txt")
    assert "19 tokens of own.txt" in result.stdout
    assert "not measured" in edgedec("tiny", "-o", "b", "--no-verify").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "nowhere does not exist"),
        (["tiny", "-o", "tiny"], 1, "exists already"),
        (["tiny", "-o", "tiny", "--force"], 1, "is not a bundle, so it is not replaced"),
        (["tiny", "--device", "abacus"], 1, "abacus"),
        (["tiny", "--text", "none.txt"], 1, "none.txt cannot be read"),
        (["tiny", "--context", "65"], 2, "64"),
        (["tiny", "--cut", "2"], 2, "cuts [2]"),
        (["tiny", "--keep", "nose=int8"], 2, "no nose in this model"),
        (["tiny", "--keep", "nose"], 2, "is not ROLE=KIND"),
        (["tiny", "--kind", "int3"], 2, "'int3' is not one of"),
        (["tiny", "--sharp"], 2, "No such option"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_goes_wrong_is_one_line(
    folder: Path, arguments: list[str], code: int, message: str
) -> None:
    before = sorted(os.listdir(folder))
    result = edgedec(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output
    if code == 1:
        assert result.stderr.startswith("edgedec: ") and result.stderr.count("\n") == 1
    assert sorted(os.listdir(folder)) == before


def test_damaged_weights_are_one_line(folder: Path) -> None:
    path = folder / "tiny" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    result = edgedec("tiny")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "cut off" in result.stderr


def test_an_interrupt_is_no_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedec.export import verify

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "forward", interrupt)
    result = edgedec("tiny")
    assert result.exit_code not in (0, 2)
    assert "Traceback" not in result.output
    assert os.listdir(folder) == ["tiny"]


def test_the_help_has_examples(folder: Path) -> None:
    assert "edgedec export stories260K.bin" in edgedec("--help").stdout
