"""Write a Hugging Face style folder from a checkpoint of train.py.

python models/reference/stories/package.py --run DIR --data ../shared/data --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from edgedec.models.reference.stories.data import ASSISTANT, END, USER
from edgedec.models.reference.stories.recipe import WIDE, Recipe
from edgedec.training.pretrain import read_checkpoint
from edgedec.training.torch_llama import TorchLlama, save_hugging_face

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    f"{{{{- '{ASSISTANT}' + message['content'] + '{END}' -}}}}"
    "{%- else -%}"
    f"{{{{- '{USER}' + message['content'] -}}}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    f"{{{{- '{ASSISTANT}' -}}}}"
    "{%- endif -%}"
)


def write_folder(model: TorchLlama, tokenizer: Path, folder: Path) -> None:
    """Weights, config, tokenizer with chat template, and generation settings."""
    save_hugging_face(model, folder)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model.shape.context,
            "bos_token": END,
            "eos_token": END,
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    # a user token means that the answer is over, even where the end token was not drawn
    _write(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": [0, 1]})


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Read the newest checkpoint and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="what train.py was given as --out")
    parser.add_argument("--wide", action="store_true", help="it is a run of the wide recipe")
    parser.add_argument("--data", type=Path, required=True, help="for the seed's tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    model = TorchLlama((WIDE if arguments.wide else Recipe()).shape)
    state = read_checkpoint(arguments.run / "checkpoint.pt")
    model.load_state_dict(state["model"])
    write_folder(model, arguments.data / "seed" / "tokenizer.json", arguments.out)
    print(f"step {state['step']}, {state['tokens']} tokens: {arguments.out}")


if __name__ == "__main__":
    main()
