"""Chat templates: in the style of real families, and hostile ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from edgedec.chat_template import ChatTemplate
from edgedec.errors import BundleError, InputError

NAMES = {"bos_token": "<s>", "eos_token": "</s>"}

HEADERS = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\\n\\n' }}
{%- endif %}
"""

CHATML = """{%- if tools %}{{- raise_exception('no tools here') }}{%- endif %}
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- if ns.last < 0 and message.role == 'user' %}
        {%- set ns.last = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if loop.index0 < ns.last %}
        {%- set content = content.split('</think>')[-1] %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

TURNS = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first = messages[0]['content'] + '\\n\\n' -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set first = '' -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Roles must alternate user/assistant/user/...") }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<turn>' + role + '\\n' + (first if loop.first else '') }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}{%- endif -%}
    {{ '</turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<turn>model\\n' }}
{%- endif -%}
"""

GENERATION = """{%- macro intro(text, day="today") -%}
Info ({{ day }}): {{ text }}
{%- endmacro -%}
{%- for message in messages if message.role != 'note' -%}
    {%- if message.role == "system" -%}
        {%- if not message.content -%}{%- continue -%}{%- endif -%}
        {{ intro(message.content) }}{{ "\\n" }}
    {%- elif message.role == "assistant" -%}
        {% generation %}{{ "<a>" ~ message.content ~ eos_token }}{% endgeneration %}
    {%- else -%}
        {{ "<u>" ~ message.content | tojson }}
        {%- if loop.last %}{{ "!" }}{% else %}{{ loop.nextitem.role }}{% endif -%}
    {%- endif -%}
{%- endfor -%}
{% if add_generation_prompt %}<a>{% endif %}
"""

PLAIN = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + '<|end|>\\n' }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + message['content'] + '<|end|>\\n' }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}
"""

TEMPLATES = {
    "llama3": HEADERS,
    "qwen": CHATML,
    "gemma": TURNS,
    "smollm3": GENERATION,
    "phi3": PLAIN,
}


def chat(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]


TALK = chat("Hi <b>&'\"", "</think>Hello! ", "  é 日本 👍🏽\n")
EXPECTED = {
    "llama3": "<s><|start|>user<|end|>\n\nHi <b>&'\"<|eot|>"
    "<|start|>assistant<|end|>\n\n</think>Hello!<|eot|>"
    "<|start|>user<|end|>\n\né 日本 👍🏽<|eot|><|start|>assistant<|end|>\n\n",
    "qwen": "<|im_start|>system\nYou are helpful.<|im_end|>\n"
    "<|im_start|>user\nHi <b>&'\"<|im_end|>\n<|im_start|>assistant\nHello! <|im_end|>\n"
    "<|im_start|>user\n  é 日本 👍🏽\n<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<s><turn>user\nHi <b>&'\"</turn>\n<turn>model\n</think>Hello!</turn>\n"
    "<turn>user\né 日本 👍🏽</turn>\n<turn>model\n",
    "smollm3": '<u>"Hi <b>&\'\\""assistant<a></think>Hello! </s><u>"  é 日本 👍🏽\\n"!<a>',
    "phi3": "<|user|>\nHi <b>&'\"<|end|>\n\n<|assistant|>\n</think>Hello! <|end|>\n\n"
    "<|user|>\n  é 日本 👍🏽\n<|end|>\n\n<|assistant|>\n",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_styles_of_real_families(name: str) -> None:
    before = [dict(message) for message in TALK]
    found = ChatTemplate(TEMPLATES[name], NAMES).render(TALK)
    assert found.rstrip("\n") == EXPECTED[name].rstrip("\n")
    assert before == TALK


CONVERSATIONS = {
    "one": chat("Hi"),
    "three": TALK,
    "system": [{"role": "system", "content": "Be brief. "}, *TALK],
    "empty system": [{"role": "system", "content": ""}, *chat("a", "b", "c")],
}


@pytest.mark.full
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_as_transformers(name: str, conversation: str, theirs: Callable[..., str]) -> None:
    messages, template = CONVERSATIONS[conversation], ChatTemplate(TEMPLATES[name], NAMES)
    expected = theirs(TEMPLATES[name], messages, add_generation_prompt=True)
    assert template.render(messages) == expected
    unfinished = [*messages, {"role": "assistant", "content": "So, I "}]
    expected = theirs(TEMPLATES[name], unfinished, continue_final_message=True)
    assert template.render(unfinished, continue_last=True) == expected


@pytest.fixture
def theirs() -> Callable[..., str]:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models

    def rendered(source: str, messages: Any, **options: Any) -> str:
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.BPE()), **NAMES
        )
        tokenizer.chat_template = source
        made = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        assert isinstance(made, str)
        return made

    return rendered


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("llama3", "<|start|>assistant<|end|>\n\nOnce upon"),
        ("qwen", "<|im_start|>assistant\nOnce upon "),
        ("gemma", "<turn>model\nOnce upon"),
        ("smollm3", "<a>Once upon "),
        ("phi3", "<|assistant|>\nOnce upon "),
    ],
)
def test_the_last_message_goes_on(name: str, end: str) -> None:
    messages = chat("Tell me a story", "Once upon ")
    found = ChatTemplate(TEMPLATES[name], NAMES).render(messages, continue_last=True)
    assert found.endswith(end)
    assert messages[-1]["content"] == "Once upon "


def test_a_last_message_that_is_not_shown_cannot_go_on() -> None:
    template = ChatTemplate("{{ messages[0].content }}", NAMES)
    with pytest.raises(InputError, match="does not show"):
        template.render(chat("a", "b"), continue_last=True)


def test_the_words_of_the_template_reach_the_user() -> None:
    with pytest.raises(InputError, match=r"Roles must alternate user/assistant/user/\.\.\."):
        ChatTemplate(TURNS, NAMES).render([*chat("a"), *chat("b")])


def test_clock() -> None:
    found = ChatTemplate("{{ strftime_now('%Y') }}", NAMES).render(chat("a"))
    assert abs(int(found) - datetime.now().year) <= 1


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        {"role": "user", "content": "a"},
        None,
        ["hello"],
        [{"role": "user"}],
        [{"role": "user", "content": 3}],
        [{"role": None, "content": "a"}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        [{"role": "user", "content": "a", "name": "x"}],
    ],
    ids=repr,
)
def test_messages_that_are_none(messages: Any) -> None:
    with pytest.raises(InputError, match="message"):
        ChatTemplate(PLAIN, NAMES).render(messages)


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{ x ",
        "{% include 'other' %}",
        "{% import 'os' as os %}",
        "{{ messages[9].content }}",
        "{{ 1 / 0 }}",
        "{{ nothing.at.all }}",
        "{{ 'a' + 1 }}",
        "{{ messages | unheard_of }}",
        "{{ nothing() }}",
        "{% generation %}{{ x }}",
        "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    ],
    ids=lambda source: source[:30],
)
def test_a_broken_template_is_one_line(source: str) -> None:
    with pytest.raises(BundleError, match="chat template") as caught:
        ChatTemplate(source, NAMES).render(chat("a"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


ESCAPES = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "subscript": "{{ ''['__class__']['__mro__'] }}",
    "attr": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "map": "{{ ['']|map(attribute='__class__')|list }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "dict": "{{ dict.__init__ }}",
    "code": "{{ strftime_now.__code__ }}",
    "namespace class": "{{ namespace.__init__.__globals__ }}",
    "namespace get": "{{ namespace().__class__.__mro__ }}",
    "namespace set": "{% set ns = namespace() %}{% set ns.__class__ = dict %}{{ ns }}",
    "namespace keyword": "{{ namespace(**{'_Namespace__attrs': 1}) }}",
    "format": "{{ '{0.__class__}'.format(messages) }}",
    "format map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "self": "{{ self.__init__.__globals__ }}",
    "self context": "{{ self._TemplateReference__context }}",
    "loop": "{% for a in messages %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "macro": "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}{{ m._func }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "lipsum": "{{ lipsum.__globals__.os }}",
    "append": "{{ messages.append(1) }}",
    "clear": "{{ messages.clear() }}",
    "item": "{{ messages[0].update({'content': 'x'}) }}",
    "unbound": "{{ dict.update(messages[0], {'content': 'x'}) }}",
    "pop": "{{ messages[0].pop('content') }}",
    "set item": "{% set messages[0].content = 'x' %}",
    "sort": "{{ messages.sort() }}",
}

BOMBS = {
    "range": "{{ range(10**9)|list }}",
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "filters": "{% for i in range(99999) %}{{ range(99999)|sum }}{% endfor %}",
    "text": "{% for i in range(99999) %}{{ messages[0].content * 1000 }}{% endfor %}",
    "times": "{{ 'x' * 10**10 }}",
    "times back": "{{ 10**10 * ['x'] }}",
    "plus": "{% set n = namespace(a='xx') %}{% for i in range(99) %}"
    "{% set n.a = n.a + n.a %}{% endfor %}",
    "tilde": "{% set n = namespace(a='xx') %}{% for i in range(99) %}"
    "{% set n.a = n.a ~ n.a %}{% endfor %}",
    "tilde inside": "{% set n = namespace(a='xx') %}{% for i in range(99) %}"
    "{% set n.a = [n.a ~ (n.a ~ n.a)][0] %}{% endfor %}",
    "power": "{{ 10 ** 10 ** 8 }}",
    "powers": "{{ 2 ** 60 ** 60 }}",
    "squares": "{% set n = namespace(a=9) %}{% for i in range(99) %}"
    "{% set n.a = n.a * n.a %}{% endfor %}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "center": "{{ 'x'|center(10**9) }}",
    "indent": "{{ 'x\ny'|indent(10**9) }}",
    "percent": "{{ '%0999999999d' % 1 }}",
    "percent star": "{{ '%*d' % (10**9, 1) }}",
    "percent filter": "{{ '%0999999999d'|format(1) }}",
    "width": "{{ '{:999999999}'.format(1) }}",
    "width inner": "{{ '{:{}}'.format(1, 10**9) }}",
    "strftime": "{{ strftime_now('%0999999999d') }}",
    "macro": "{% macro m(n) %}{{ m(n+1) }}{{ m(n+1) }}{% endmacro %}{{ m(0) }}",
    "wide macro": "{% macro m(n) %}"
    "{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursive": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "long": "x" * (1 << 21),
    "centres": "{% for i in range(99999) %}{{ ('x'|center(10**6))[0] }}{% endfor %}",
    "json": "{{ messages|tojson(indent=10**9) }}",
}


HOSTILE = [*ESCAPES.items(), *BOMBS.items()]


@pytest.mark.parametrize(
    "source", [source for _, source in HOSTILE], ids=[name for name, _ in HOSTILE]
)
def test_hostile_templates_fail_cleanly(source: str) -> None:
    messages = chat("a", "b")
    before = time.process_time()
    with pytest.raises(BundleError, match="chat template") as caught:
        ChatTemplate(source, NAMES).render(messages)
    assert "\n" not in str(caught.value)
    assert messages == chat("a", "b")
    assert time.process_time() - before < 20


def test_a_long_conversation_is_within_bounds() -> None:
    messages = chat(*["some words and more " * 50] * 1001)
    for source in TEMPLATES.values():
        assert len(ChatTemplate(source, NAMES).render(messages)) > 1_000_000


def test_one_template_can_be_rendered_often() -> None:
    """The bounds are for one rendering, not for the life of a template."""
    template = ChatTemplate("{% for i in range(60000) %}{% endfor %}ok", NAMES)
    assert {template.render(chat("a")) for _ in range(30)} == {"ok"}
