"""A bundle's chat template: messages in, one prompt out.

Knows nothing about tokens. What a template may do, and what it may not, stands in
`chat_sandbox.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgedec.chat_sandbox import Refused, compiled, rendered
from edgedec.errors import BundleError, InputError

Message = Mapping[str, str]

_MARK = "edgedec-continues-here "
_KEYS = {"role", "content"}


class ChatTemplate:
    """A compiled template with the special tokens it may name (`bos_token` and so on)."""

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        """Compile a template.

        Raises:
            BundleError: it is no template.
        """
        self._names = dict(names)
        try:
            self._template = compiled(source)
        except Exception as error:
            raise _broken(error) from None

    def render(self, messages: Sequence[Message], *, continue_last: bool = False) -> str:
        """The prompt that asks for the next message, or (`continue_last`) for more of the last.

        Raises:
            InputError: malformed messages, or ones that the template refuses in its own words.
            BundleError: the template fails, or tries what the sandbox forbids.
        """
        copied = check(messages)
        if not continue_last:
            return self._render(copied, ask=True)
        copied[-1]["content"] += _MARK
        return _cut(self._render(copied, ask=False))

    def _render(self, messages: list[dict[str, str]], *, ask: bool) -> str:
        values = {
            **self._names,
            "messages": messages,
            "add_generation_prompt": ask,
            "tools": None,
            "documents": None,
        }
        try:
            return rendered(self._template, values)
        except Refused as error:
            raise InputError(f"the chat template refuses these messages: {error}") from None
        except Exception as error:
            raise _broken(error) from None


def check(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Copies of the messages, as plain dicts of strings.

    Raises:
        InputError: there is none, or one is not `{"role": text, "content": text}`.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InputError(
            f"messages are a list of {{'role', 'content'}}, found a {type(messages).__name__}"
        )
    if not messages:
        raise InputError("there are no messages: give at least one")
    return [_checked(number, message) for number, message in enumerate(messages)]


def _checked(number: int, message: Message) -> dict[str, str]:
    if not isinstance(message, Mapping) or set(message) != _KEYS:
        found = (
            sorted(map(str, message)) if isinstance(message, Mapping) else type(message).__name__
        )
        raise InputError(f"message {number} must have 'role' and 'content', found {found}")
    for key in sorted(_KEYS):
        if not isinstance(message[key], str):
            kind = type(message[key]).__name__
            raise InputError(f"message {number}: {key!r} must be text, found {kind}")
    # Subclasses of str may carry methods that a template should not reach.
    return {"role": "".join(message["role"]), "content": "".join(message["content"])}


def _cut(text: str) -> str:
    """What stands before the mark; a template that trims its messages trims this one too."""
    place = text.rfind(_MARK.strip())
    if place < 0:
        raise InputError("the chat template does not show the last message, so it cannot go on")
    kept = text[:place]
    return kept if text.startswith(_MARK, place) else kept.rstrip()


def _broken(error: Exception) -> BundleError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return BundleError(f"the chat template of this bundle fails: {reason}")
