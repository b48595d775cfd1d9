"""Peak memory of an export, in multiples of the checkpoint's size.

    python bench/export_memory.py [--kind int4] [--no-verify]

Makes a random checkpoint of the shape of Llama 3.2 1B (1.24 B parameters, bf16, 2.5 GB) in the
system's temporary folder, exports it in a process of its own, and deletes both again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
BLOCK = 1 << 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", default="int4")
    parser.add_argument("--no-verify", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = write_checkpoint(Path(folder) / "random-1b")
        command = [sys.executable, "-c", "from edgedec.cli import main; main()", "export"]
        command += [f"{folder}/random-1b", "-o", f"{folder}/bundle", "--kind", options.kind]
        command += ["--no-verify"] if options.no_verify else []
        begin = time.perf_counter()
        child = os.spawnv(os.P_NOWAIT, sys.executable, command)
        _, status, usage = os.wait4(child, 0)
        seconds = time.perf_counter() - begin
    if status:
        raise SystemExit("the export failed")
    peak = usage.ru_maxrss * 1024
    print(
        f"checkpoint {size / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB: {peak / size:.2f} times its "
        f"size; {seconds:.0f} s, kind {options.kind}"
    )


def write_checkpoint(folder: Path) -> int:
    """Random bf16 weights, written piece by piece; the size of the file in bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    header, end = {}, 0
    for name, shape in shapes().items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path = folder / "model.safetensors"
    # One block of numbers, repeated: neither time nor memory depends on the values.
    block = _bf16(np.random.default_rng(0).standard_normal(BLOCK, np.float32) * np.float32(0.02))
    ones = _bf16(np.ones(BLOCK, np.float32))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes().items():
            numbers = math.prod(shape)
            for start in range(0, numbers, BLOCK):
                file.write((ones if "norm" in name else block)[: min(BLOCK, numbers - start)])
    return path.stat().st_size


def shapes() -> dict[str, list[int]]:
    width, mlp, vocab = (CONFIG[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    keys = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    layer = {
        "input_layernorm": [width],
        "self_attn.q_proj": [width, width],
        "self_attn.k_proj": [keys, width],
        "self_attn.v_proj": [keys, width],
        "self_attn.o_proj": [width, width],
        "post_attention_layernorm": [width],
        "mlp.gate_proj": [mlp, width],
        "mlp.up_proj": [mlp, width],
        "mlp.down_proj": [width, mlp],
    }
    named = {"model.embed_tokens.weight": [vocab, width]}
    for index in range(CONFIG["num_hidden_layers"]):
        named |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    return {**named, "model.norm.weight": [width]}


def _bf16(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


if __name__ == "__main__":
    main()
