"""A conversation as a list of messages, and as a file. It prints nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgedec.errors import StateError, WriteError
from edgedec.replacing import replacing

if TYPE_CHECKING:
    from edgedec.model import Messages, Model

SCHEMA = 1


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """Who said what."""

    role: str
    content: str


class File(msgspec.Struct, forbid_unknown_fields=True):
    """What `save` writes; the model's state lies beside it."""

    schema: int
    model: str
    messages: list[Message]


class Conversation:
    """What was said. A model without a chat template reads it as one text, joined by spaces."""

    def __init__(self, is_chat: bool, system: str | None) -> None:
        self._is_chat = is_chat
        self._system = system
        self._messages: list[Message] = []
        self.reset()

    def reset(self) -> None:
        """Begin again."""
        self._messages = [] if self._system is None else [Message("system", self._system)]

    def say(self, line: str) -> None:
        """The user's turn."""
        self._messages.append(Message("user", line))

    def answer(self, text: str) -> None:
        """The model's turn."""
        self._messages.append(Message("assistant", text))

    def take_back(self) -> None:
        """Forget the last turn."""
        self._messages.pop()

    @property
    def prompt(self) -> str | Messages:
        """What the model reads next."""
        if self._is_chat:
            return [{"role": m.role, "content": m.content} for m in self._messages]
        text = ""
        for message in self._messages:
            # An answer continues the line before it; a new line is set off from what came before.
            apart = message.role != "assistant" and text and not text[-1].isspace()
            text += (" " if apart else "") + message.content
        return text

    def save(self, path: Path, model: Model) -> None:
        """Write the messages to `path` and the model's state beside it.

        Raises:
            WriteError: a file cannot be written.
        """
        document = msgspec.json.encode(File(SCHEMA, model.name, self._messages))
        try:
            with replacing(path) as partial:
                partial.write_bytes(msgspec.json.format(document, indent=1) + b"\n")
        except OSError as error:
            raise WriteError(
                f"{path} cannot be written: {error.strerror}; choose another place"
            ) from None
        model.save(_state(path))

    def load(self, path: Path, model: Model) -> str | None:
        """Take over a saved conversation; the state saves reading it anew, and may be missing.

        Returns why the state was not used, or None.

        Raises:
            StateError: the file is not a conversation.
        """
        try:
            found = msgspec.json.decode(path.read_bytes(), type=File)
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StateError(f"{path} is not a saved conversation: {error}") from None
        if found.schema > SCHEMA:
            raise StateError(f"{path} was saved by a newer edgedec: update edgedec")
        self._messages = found.messages
        if not _state(path).exists():
            return None
        try:
            model.load(_state(path))
        except StateError as error:
            return str(error)
        return None


def _state(path: Path) -> Path:
    return path.with_name(f"{path.name}.state")
