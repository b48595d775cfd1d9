"""The sandbox in which a bundle's chat template runs: jinja2, with bounds.

A template is somebody else's program. This is what is guaranteed:

- it reaches no Python object but the plain strings, lists and dicts it is given: names that begin
  with an underscore, methods that change their object, imports and files are refused;
- it cannot loop for ever: turns of loops, calls and filters are counted (`MAX_WORK`);
- no text it makes is over `MAX_TEXT` characters, nor is the whole, nor the template `MAX_SOURCE`.

Not guaranteed: a single operation of jinja2 or Python may still need time and memory out of
proportion to its input (at worst `replace` on two large strings, about `MAX_TEXT` squared).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_WORK = 500_000
MAX_TEXT = 1 << 24
MAX_SOURCE = 1 << 20
_MAX_NUMBER = 1_000_000
_LONG_WIDTH = re.compile(r"\d{5}")


class Refused(Exception):
    """The template called `raise_exception`: the words are for the user."""


_work: ContextVar[list[int]] = ContextVar("work")


def compiled(source: str) -> jinja2.Template:
    """Compile a template. Raises whatever jinja2 raises."""
    if len(source) > MAX_SOURCE:
        raise SecurityError(f"it is over {MAX_SOURCE} characters long")
    _work.set([0])
    return _Sandbox().from_string(source)


def rendered(template: jinja2.Template, values: Mapping[str, Any]) -> str:
    """Run a template. Raises `Refused`, or whatever jinja2 and Python raise in it."""
    _work.set([0])
    pieces: list[str] = []
    size = 0
    for piece in template.generate(values):
        size += len(piece)
        if size > MAX_TEXT:
            raise SecurityError(f"its output is over {MAX_TEXT} characters")
        pieces.append(piece)
    return "".join(pieces)


class _Generation(Extension):
    """`{% generation %}` marks what training should learn; here it only shows its content."""

    tags = {"generation"}  # noqa: RUF012 - the attribute jinja2 reads

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The environment: what templates of Hugging Face models expect, and the bounds."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
        )
        self.filters = {name: _bounded(value) for name, value in self.filters.items()}
        self.filters["tojson"] = _bounded(_tojson)
        self.filters["_counted"] = _counted
        self.filters["_joined"] = _joined
        # `dict` and `namespace` as classes would let a template change what it is given.
        self.globals = {
            "range": self.globals["range"],
            "dict": _make_dict,
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def _generate(
        self,
        source: nodes.Template,
        name: str | None,
        filename: str | None,
        defer_init: bool = False,
    ) -> str:
        _count_loops(source)
        return super()._generate(source, name, filename, defer_init)

    def unsafe_undefined(self, obj: Any, attribute: str) -> jinja2.Undefined:
        # jinja2 would print what is unsafe as an empty text; a clear refusal is better.
        raise SecurityError(f"it asks for {attribute!r} of a {type(obj).__name__}")

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _check_arguments(obj, args, kwargs)
        return _sized(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return _sized(super().call_binop(context, operator, left, right))


class _Namespace(Namespace):
    """jinja2's namespace without names that Python gives a meaning to."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, rest = args[0], args[1:]
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: object) -> None:
    raise Refused(" ".join(str(message).split())[:500])


def _strftime_now(form: str) -> str:
    _check_widths(form)
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    pair = (str(separators[0]), str(separators[1])) if separators else None
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys
    )


# --- bounds --------------------------------------------------------------------------------------


def _charge(amount: int) -> None:
    work = _work.get()
    work[0] += amount
    if work[0] > MAX_WORK:
        raise SecurityError(f"it does more than {MAX_WORK} operations")


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _charge(1)
        yield item


def _joined(parts: Sequence[Any]) -> str:
    return str(_sized("".join(map(str, parts))))


def _sized(value: Any) -> Any:
    if isinstance(value, (str, list, tuple, dict)):
        if len(value) > MAX_TEXT:
            raise SecurityError(f"it makes a value of over {MAX_TEXT} characters")
        _charge(len(value) >> 6)
    return value


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter, counted; `wraps` also copies jinja2's mark of what it wants as first argument."""

    @functools.wraps(function)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        _check_arguments(function, args, kwargs)
        return _sized(function(*args, **kwargs))

    return filtered


def _check_arguments(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    method = getattr(function, "__wrapped__", function)
    owner = getattr(method, "__self__", None)
    name = getattr(method, "__name__", "")
    for value in (owner, *args, *kwargs.values()):
        if isinstance(value, int) and abs(value) > _MAX_NUMBER:
            raise SecurityError(f"it asks for {value}, over {_MAX_NUMBER}")
        if isinstance(value, (str, list, tuple, dict, range)):
            _charge(len(value) >> 6)
        if isinstance(value, str) and name in ("format", "format_map", "do_format"):
            _check_widths(value)
    _charge(1)


def _check_operands(operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, str):
        _check_widths(left)
        _check_arguments(None, right if isinstance(right, tuple) else (right,), {})
        return
    numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
    if operator == "*" and not numbers:
        long, times = (left, right) if hasattr(left, "__len__") else (right, left)
        if hasattr(long, "__len__") and isinstance(times, int) and len(long) * times > MAX_TEXT:
            raise SecurityError(f"it makes a value of over {MAX_TEXT} characters")
    elif operator in ("*", "**") and max(abs(left), abs(right)) > _MAX_NUMBER:
        raise SecurityError("it multiplies numbers that are too large")
    elif operator == "**" and abs(right) > 64:
        raise SecurityError("it raises a number to a power that is too large")


def _check_widths(text: str) -> None:
    if _LONG_WIDTH.search(text):
        raise SecurityError("it formats a value to a width that is too large")


def _count_loops(source: nodes.Template) -> None:
    """Let every loop count its turns and every `~` the size of its result."""
    for loop in list(source.find_all(nodes.For)):
        if loop.recursive:
            raise SecurityError("it has a recursive loop")
        loop.iter = _filter(loop.iter, "_counted")
    for parent in list(source.find_all(nodes.Node)):
        for field, value in list(parent.iter_fields()):
            if isinstance(value, nodes.Concat):
                setattr(parent, field, _concat(value))
            elif isinstance(value, list):
                value[:] = [_concat(v) if isinstance(v, nodes.Concat) else v for v in value]


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    made = nodes.Filter(node, name, [], [], None, None)
    made.set_lineno(node.lineno)
    if node.environment is not None:
        made.set_environment(node.environment)
    return made


def _concat(node: nodes.Concat) -> nodes.Filter:
    parts = nodes.List(node.nodes)
    parts.lineno, parts.environment = node.lineno, node.environment
    return _filter(parts, "_joined")
