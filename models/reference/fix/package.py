"""Write the checkpoint folder from a checkpoint of train.py.

python models/reference/fix/package.py --run DIR --start STORIES --out CHECKPOINT
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from edgedec.models.reference.fix.recipe import Recipe
from edgedec.models.reference.stories.data import END
from edgedec.training.pretrain import read_checkpoint
from edgedec.training.torch_mu import TorchMu, save_official

STORIES = Path(__file__).parents[1] / "stories" / "checkpoint"
_APPEND_END = {
    "type": "TemplateProcessing",
    "single": [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": END, "type_id": 0}},
    ],
    "pair": [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 0}},
        {"SpecialToken": {"id": END, "type_id": 0}},
    ],
    "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}},
}


def write_folder(model: TorchMu, folder: Path, provenance: dict[str, object]) -> None:
    """Weights, config, the tokenizer of `stories` that ends a source, and what was done."""
    save_official(model, folder)
    write_tokenizer(STORIES / "tokenizer.json", model.shape.context, folder)
    _write(folder / "provenance.json", provenance)


def write_tokenizer(tokenizer: Path, limit: int, folder: Path) -> None:
    """The tokenizer with a post-processor that appends the end to the source."""
    content = json.loads(tokenizer.read_text(encoding="utf-8"))
    content["post_processor"] = _APPEND_END
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": limit,
        "bos_token": END,
        "eos_token": END,
        "pad_token": END,
        "clean_up_tokenization_spaces": False,
    }
    _write(folder / "tokenizer_config.json", settings)


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Read the newest checkpoint and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="what train.py was given as --out")
    parser.add_argument("--start", type=Path, required=True, help="what train.py was given")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    model = TorchMu(Recipe().shape)
    state = read_checkpoint(arguments.run / "checkpoint.pt")
    model.load_state_dict(state["model"])
    made = {
        "recipe": "models/reference/fix",
        "start": {
            "model": "wide stories",
            "sha256": _digest(arguments.start / "model.safetensors"),
        },
        "steps": state["step"],
        "target_tokens": state["tokens"],
        "padding_included": True,
    }
    write_folder(model, arguments.out, made)
    print(f"step {state['step']}, {state['tokens']} tokens: {arguments.out}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
