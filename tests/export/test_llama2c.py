"""llama2.c files against the same weights in Hugging Face's layout, and SentencePiece's ids."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from edgedec.errors import CheckpointError
from edgedec.export.llama2c import read_tokenizer
from edgedec.export.pipeline import ExportOptions, export_model
from edgedec.export.reference import forward
from edgedec.export.source import SourceOptions, open_source

from .conftest import CONFIG, byte_tokenizer, random_weights

UNTIED = {**CONFIG, "tie_word_embeddings": False}
ORDER = (
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj",
)  # fmt: skip


def interleaved(matrix: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a rotary projection in the order of the original Llama code: pairs adjoin."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, -1)


def write_model(path: Path, config: dict[str, Any]) -> Path:
    tensors = random_weights(config)
    tied = config["tie_word_embeddings"]
    fields = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "max_position_embeddings",
    )  # fmt: skip
    header = [config[name] for name in fields]
    header[5] *= 1 if tied else -1
    parts = [struct.pack("<7i", *header), tensors["model.embed_tokens.weight"].tobytes()]
    for name in ORDER:
        for layer in range(config["num_hidden_layers"]):
            matrix = tensors[f"model.layers.{layer}.{name}.weight"]
            heads = {"q": 4, "k": 2}.get(name.removeprefix("self_attn.").partition("_")[0])
            parts.append((interleaved(matrix, heads) if heads else matrix).tobytes())
    parts.append(tensors["model.norm.weight"].tobytes())
    parts.append(bytes(4 * config["max_position_embeddings"] * config["head_dim"]))
    if not tied:
        parts.append(tensors["lm_head.weight"].tobytes())
    path.write_bytes(b"".join(parts))
    return path


def write_tokenizer(path: Path, vocab: int = 300) -> Path:
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [" ", *(chr(number) for number in range(0x100, 0x100 + vocab - len(pieces) - 1))]
    content = struct.pack("<i", 7)
    for text in pieces:
        content += struct.pack("<fi", 0.0, len(text.encode())) + text.encode()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
def test_the_logits_are_those_of_the_hugging_face_layout(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(random_weights(config), folder / "model.safetensors")
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    path = write_model(tmp_path / "tiny.bin", config)
    write_tokenizer(tmp_path / "tokenizer.bin")
    ids = np.random.default_rng(3).integers(0, 300, 40)
    ours, theirs = (open_source(str(place)) for place in (path, folder))
    logits = [forward(source.architecture, source.weights, ids) for source in (ours, theirs)]
    np.testing.assert_allclose(*logits, atol=2e-5)


def test_a_whole_export(tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.bin", CONFIG)
    write_tokenizer(tmp_path / "tok300.bin")
    report = export_model(str(path), tmp_path / "out", ExportOptions(kind="fp32"))
    assert report.quality is not None and report.quality.max_error < 1e-4
    assert (report.manifest.name, report.manifest.provenance.source) == ("tiny", "tiny.bin")
    assert report.manifest.architecture.tokens.bos == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:20], "only 20 bytes"),
        (lambda data: data[:-4], "cut off"),
        (lambda data: data + b"1234", "its header asks for"),
        (lambda data: b"PK\3\4" + data[4:], "no llama2.c checkpoint"),
        (lambda data: struct.pack("<i", 0) + data[4:], "no llama2.c checkpoint"),
        (lambda data: data[:-40_000] + b"\xff" * 40_000, "NaN"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, damage: Any, message: str) -> None:
    path = write_model(tmp_path / "tiny.bin", UNTIED)
    write_tokenizer(tmp_path / "tokenizer.bin")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        open_source(str(path))


def test_the_tokenizer_is_found_or_asked_for(tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.bin", CONFIG)
    with pytest.raises(CheckpointError, match=r"no tokenizer.bin or tok300.bin; name it with"):
        open_source(str(path))
    other = write_tokenizer(tmp_path / "elsewhere.bin")
    assert open_source(str(path), SourceOptions(tokenizer=other)).tokenizer.json
    with pytest.raises(CheckpointError, match=r"no missing\.bin"):
        open_source(str(path), SourceOptions(tokenizer=tmp_path / "missing.bin"))


@pytest.mark.parametrize(("vocab", "message"), [(310, "more than the 300"), (290, "no llama2.c")])
def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path, vocab: int, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_tokenizer(write_tokenizer(tmp_path / "tokenizer.bin", vocab), 300)


def test_a_context_may_be_shorter(tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.bin", CONFIG)
    write_tokenizer(tmp_path / "tokenizer.bin")
    assert open_source(str(path), SourceOptions(context=8)).architecture.limits.context == 8
    with pytest.raises(CheckpointError, match="context of 96, not 97"):
        open_source(str(path), SourceOptions(context=97))


def test_the_ids_are_those_of_the_sentencepiece_model_it_was_made_from(tmp_path: Path) -> None:
    spm = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(["the lion and the fox lived  by the sea, and saw a boat"] * 20),
        model_writer=model,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    theirs = spm.SentencePieceProcessor(model_proto=model.getvalue())
    content = struct.pack("<i", 10)
    for index in range(320):
        text = theirs.id_to_piece(index).replace("\u2581", " ")
        data = (f"\n{text}\n" if text in ("<s>", "</s>") else text).encode()
        content += struct.pack("<fi", theirs.get_score(index), len(data)) + data
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(content)
    ours = Tokenizer.from_str(read_tokenizer(path, 320).json)
    for text in ("the sea", " a  lion\n", "", "Ünïcode 🦁", "the foxes sealed the boats"):
        ids = theirs.encode(text)
        assert ours.encode(text).ids == [theirs.bos_id(), *ids]
        assert ours.decode(ids) == theirs.decode(ids)
