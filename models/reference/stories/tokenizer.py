"""Train the byte-level BPE of 4096: python models/reference/stories/tokenizer.py --data D --out F.

The shipped tokenizer is the seed's, made the same way from the same texts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from edgedec.models.reference.stories.data import ASSISTANT, END, USER, load_texts

SIZE = 4096
SPECIAL = (END, USER, ASSISTANT)  # ids 0, 1, 2


def train_tokenizer(texts: Iterable[str], size: int = SIZE) -> Tokenizer:
    """A byte-level BPE: every byte has a token, so no text is out of reach."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> None:
    """Train on the training texts, never on held-out ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="tokenizer.json to write")
    arguments = parser.parse_args()
    train = load_texts(arguments.data).train
    texts = (text for stream in ("tiny", "fairy", "books", "wiki") for text in train[stream])
    train_tokenizer(texts).save(str(arguments.out))


if __name__ == "__main__":
    main()
