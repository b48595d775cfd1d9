"""Encoding, decoding and streams against the tokenizers library and against whole texts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgedec.architecture import Architecture
from edgedec.errors import BundleError, EdgedecError, InputError, UnsupportedError
from edgedec.text import Text

KINDS = ["byte_level", "llama", "gemma", "metaspace", "words"]
BYTES = ["byte_level", "llama", "gemma"]
Open = Callable[..., Text]

UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
PARTS = st.sampled_from(
    [
        "👩‍👩‍👧‍👦",
        "👍🏽",
        "🇵🇱",
        "e\u0301",
        "\u200d",
        "☃",
        "日本",
        "é",
        " ",
        "  ",
        "▁",
        "a",
        "once",
        "\n",
        "\0",
    ]
)
TEXTS = st.one_of(UNICODE, st.lists(PARTS, max_size=12).map("".join))
IDS = st.lists(st.integers(0, 400), max_size=25)


def pieces(text: Text, ids: Sequence[int]) -> list[str]:
    stream = text.stream()
    return [*map(stream.push, ids), stream.flush()]


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
def test_encodes_and_decodes_as_the_library(
    texts: dict[str, Text], library: dict[str, Tokenizer], kind: str, text: str
) -> None:
    for special in (True, False):
        ids = texts[kind].encode(text, special)
        assert ids == library[kind].encode(text, add_special_tokens=special).ids
        assert texts[kind].decode(ids) == library[kind].decode(ids)
    if kind in BYTES:
        # The library writes the mark of a space as a space; nothing else is lost.
        assert texts[kind].decode(ids) == (text if kind == "byte_level" else text.replace("▁", " "))


@pytest.mark.parametrize("kind", ["byte_level", "metaspace", "words"])
@given(ids=IDS)
def test_any_ids_decode_as_the_library(
    texts: dict[str, Text], library: dict[str, Tokenizer], kind: str, ids: list[int]
) -> None:
    assert texts[kind].decode(ids) == library[kind].decode(ids)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@given(ids=IDS)
def test_byte_fallback_decodes_as_the_library_but_for_broken_bytes(
    texts: dict[str, Text], library: dict[str, Tokenizer], kind: str, ids: list[int]
) -> None:
    """The library gives up a whole run of bytes if one is wrong; we only what is wrong."""
    ours, theirs = texts[kind].decode(ids), library[kind].decode(ids)
    assert ours == theirs or "\ufffd" in theirs
    raw = b""
    for name in map(library[kind].id_to_token, ids):
        if name is not None and name not in ("<unk>", "<s>", "</s>"):
            single = name.startswith("<0x")
            raw += bytes.fromhex(name[3:5]) if single else name.replace("▁", " ").encode()
    raw = raw.removeprefix(b" ") if kind == "llama" else raw
    assert ours == raw.decode("utf-8", "replace")


@pytest.mark.parametrize("kind", KINDS)
@given(ids=IDS)
@example(ids=[171, 96])
def test_streamed_pieces_are_the_whole_text(
    texts: dict[str, Text], kind: str, ids: list[int]
) -> None:
    whole, streamed = texts[kind].decode(ids), "".join(pieces(texts[kind], ids))
    # Only a character that is not complete at the very end may be missing. The start of a surrogate
    # (ed a0) waits for its third byte and is two broken characters if none comes.
    rest = whole.removeprefix(streamed)
    assert streamed + rest == whole
    assert rest in ("", "\ufffd", "\ufffd\ufffd")


@pytest.mark.parametrize("kind", BYTES)
@given(text=TEXTS.filter(lambda text: "\ufffd" not in text), cut=st.integers(0, 60))
def test_no_broken_character_is_ever_shown(
    texts: dict[str, Text], kind: str, text: str, cut: int
) -> None:
    ids = texts[kind].encode(text, special=False)[:cut]
    shown = "".join(pieces(texts[kind], ids))
    assert "\ufffd" not in shown
    assert text.replace("▁", " ").startswith(shown.replace("▁", " "))


@pytest.mark.parametrize("kind", BYTES)
@given(text=TEXTS)
def test_characters_are_shown_at_once(texts: dict[str, Text], kind: str, text: str) -> None:
    """A piece is held back only as long as its last character is incomplete."""
    ids = texts[kind].encode(text, special=False)
    stream, shown = texts[kind].stream(), ""
    for count, token in enumerate(ids, 1):
        shown += stream.push(token)
        whole = texts[kind].decode(ids[:count])
        assert shown == whole or shown == whole.removesuffix("\ufffd")


@pytest.mark.parametrize("kind", KINDS)
@given(first=TEXTS, ids=IDS)
def test_a_stream_after_a_prompt_goes_on_where_it_ended(
    texts: dict[str, Text], kind: str, first: str, ids: list[int]
) -> None:
    prompt = texts[kind].encode(first)
    whole = texts[kind].decode([*prompt, *ids])
    assert texts[kind].decode(prompt) + texts[kind].decode(ids, after=prompt) == whole


def test_a_continuation_keeps_its_space(texts: dict[str, Text]) -> None:
    text = texts["llama"]
    prompt, more = text.encode("once"), text.encode("a", special=False)
    assert text.decode(more) == "a"
    assert text.decode(more, after=prompt) == " a"


def test_special_tokens_are_not_text(texts: dict[str, Text]) -> None:
    text = texts["byte_level"]
    ids = text.encode("a<|end|>b<tool>c")
    assert text.token(ids[1]) == "<|end|>"
    assert "".join(pieces(text, ids)) == text.decode(ids) == "ab<tool>c"


def test_ids_without_a_token(texts: dict[str, Text]) -> None:
    text = texts["byte_level"]
    assert text.token(10**6) == text.token(-1) == ""
    assert text.decode([10**6, -1, *text.encode("fox")]) == "fox"


def test_streaming_is_linear(texts: dict[str, Text]) -> None:
    """Bytes that complete no character; the square of their number would take minutes."""
    text = texts["llama"]
    broken = text.stream()
    before = time.process_time()
    for _ in range(100_000):
        broken.push(3 + 0xFF)
    assert time.process_time() - before < 5


def test_lone_surrogates_are_refused(texts: dict[str, Text]) -> None:
    with pytest.raises(InputError, match="character 2"):
        texts["llama"].encode("ab\ud800")


def test_truncation_and_padding_of_the_file_are_off(
    open_text: Open, library: dict[str, Tokenizer]
) -> None:
    tokenizer = Tokenizer.from_str(library["llama"].to_str())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=20)
    assert len(open_text(tokenizer.to_str().encode()).encode("once a fox")) > 3


def test_no_template_is_no_chat_model(texts: dict[str, Text]) -> None:
    assert not texts["llama"].is_chat
    with pytest.raises(UnsupportedError, match="not a chat model"):
        texts["llama"].chat([{"role": "user", "content": "hi"}])


def test_a_template_sees_the_special_tokens(open_text: Open) -> None:
    text = open_text(
        template="{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ unk_token }}"
    )
    assert text.is_chat
    assert text.chat([{"role": "user", "content": "hi"}]) == "<s>hi</s><unk>"
    assert text.encode("<s>hi</s>", special=False)[0] == 1


# --- files that are wrong ------------------------------------------------------------------------

DECODERS = {
    "unknown": ({"type": "CTC", "pad_token": "x"}, UnsupportedError),
    "regex": (
        {"type": "Replace", "pattern": {"Regex": "x+"}, "content": ""},
        EdgedecError,
    ),
    "no type": ({"kind": "Fuse"}, BundleError),
    "not a list": ({"type": "Sequence", "decoders": 3}, BundleError),
    "strip both ends": (
        {"type": "Sequence", "decoders": [
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 1}]},
        UnsupportedError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_we_do_not_have(open_text: Open, library: dict[str, Tokenizer], name: str) -> None:
    decoder, error = DECODERS[name]
    content = json.loads(library["llama"].to_str()) | {"decoder": decoder}
    with pytest.raises(error) as caught:
        open_text(json.dumps(content).encode())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"\xff\xfe", b'{"model": 3}', b'{"model": {"type": "BPE"}}', b"{" * 9999],
    ids=repr,
)
def test_a_damaged_tokenizer_is_one_line(open_text: Open, data: bytes) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json") as caught:
        open_text(data)
    assert "\n" not in str(caught.value)


def test_a_truncated_tokenizer_is_one_line(open_text: Open, library: dict[str, Tokenizer]) -> None:
    data = library["byte_level"].to_str().encode()
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        open_text(data[: len(data) // 2])


def test_a_missing_tokenizer_is_named(tmp_path: Path, tiny: Architecture) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        Text.open(tmp_path, tiny)


def test_a_template_that_is_not_utf8(open_text: Open) -> None:
    with pytest.raises(BundleError, match="UTF-8"):
        open_text(template=b"\xff")
