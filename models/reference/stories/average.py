"""Average the weights of models that share a beginning (model soups, 2203.05482).

python models/reference/stories/average.py --of FOLDER --of FOLDER --out FOLDER

Knows only Hugging Face style folders with fp16 weights in one file; trains and measures nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edgedec.errors import CheckpointError, UsageError

Weights = dict[str, NDArray[np.float16]]
WEIGHTS, CONFIG, PROVENANCE = "model.safetensors", "config.json", "provenance.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def average(folders: list[Path], out: Path) -> None:
    """Write a folder with the mean of the weights, taken in float32 and stored as fp16.

    All else is copied from the first folder; `provenance.json` says what was averaged. Raises
    UsageError for folders that make no sense, CheckpointError where they do not fit together.
    """
    _refuse_folders(folders, out)
    first, *others = folders
    weights = _read_weights(first)
    total = {name: part.astype(np.float32) for name, part in weights.items()}
    for other in others:
        _refuse_different_files(first, other)
        found = _read_weights(other)
        _refuse_different_tensors(weights, found, f"{first} and {other}")
        for name, part in found.items():
            total[name] += part
    mean = {name: (part / len(folders)).astype(np.float16) for name, part in total.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(mean, out / WEIGHTS, metadata={"format": "pt"})
    for name in (CONFIG, *TOKENIZER):
        if (first / name).exists():
            shutil.copyfile(first / name, out / name)
    content = json.dumps({"average_of": [_provenance(folder) for folder in folders]}, indent=1)
    (out / PROVENANCE).write_text(content + "\n", encoding="utf-8")


def _provenance(folder: Path) -> dict[str, object]:
    """The folder's name and the hash of its weights, and what it says of itself."""
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    row: dict[str, object] = {"folder": folder.resolve().name, "sha256": digest}
    known = folder / PROVENANCE
    if known.exists():
        row["provenance"] = json.loads(known.read_text(encoding="utf-8"))
    return row


def _refuse_folders(folders: list[Path], out: Path) -> None:
    if len(folders) < 2:
        raise UsageError("an average needs two folders or more: give --of once for each")
    if out.resolve() in [folder.resolve() for folder in folders]:
        raise UsageError(f"{out} is one of the folders to average: give --out another folder")


def _read_weights(folder: Path) -> Weights:
    path = folder / WEIGHTS
    try:
        with safe_open(path, "np") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping
            wrong = [name for name, kind in kinds.items() if kind != "F16"]
            if not wrong:
                return {name: file.get_tensor(name) for name in kinds}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): write it again") from error
    raise CheckpointError(f"{wrong[0]} in {path} is {kinds[wrong[0]]}: only F16 is averaged")


def _refuse_different_files(first: Path, other: Path) -> None:
    left, right = (_read_config(folder) for folder in (first, other))
    names = sorted(n for n in left.keys() | right.keys() if left.get(n) != right.get(n))
    if names:
        raise CheckpointError(
            f"{first} and {other} differ in {', '.join(names)} of config.json: only models of the "
            "same shape can be averaged"
        )
    for name in TOKENIZER:
        texts = [p.read_bytes() if (p := folder / name).exists() else None
                 for folder in (first, other)]  # fmt: skip
        if texts[0] != texts[1]:
            raise CheckpointError(
                f"{first} and {other} differ in {name}: only models that read and end a text in "
                "the same way can be averaged"
            )


def _read_config(folder: Path) -> dict[str, object]:
    path = folder / CONFIG
    try:
        config: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): write it again") from error
    return config


def _refuse_different_tensors(left: Weights, right: Weights, folders: str) -> None:
    names = left.keys() | right.keys()
    alone = sorted(names - (left.keys() & right.keys()))
    if alone:
        raise CheckpointError(f"only one of {folders} has {', '.join(alone)}: average like models")
    for name in sorted(names):
        if left[name].shape != right[name].shape:
            raise CheckpointError(
                f"{name} has shape {list(left[name].shape)} and {list(right[name].shape)} in "
                f"{folders}: average like models"
            )


def main() -> None:
    """Average the folders of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", type=Path, action="append", required=True, help="once per folder")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    average(arguments.of, arguments.out)
    print(f"average of {len(arguments.of)}: {arguments.out}")


if __name__ == "__main__":
    main()
