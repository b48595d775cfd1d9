"""Wrong spellings of one word: slips of the fingers, habits of spelling, words that sound alike.

Knows lower-case words only; None means that there was nothing to get wrong.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Spell = Callable[[str, random.Random], str | None]

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS: dict[str, str] = {}
for _row, _letters in enumerate(_ROWS):
    for _place, _letter in enumerate(_letters):
        _around = _letters[max(0, _place - 1) : _place] + _letters[_place + 1 : _place + 2]
        for _other in _ROWS[max(0, _row - 1) : _row] + _ROWS[_row + 1 : _row + 2]:
            _around += _other[max(0, _place - 1) : _place + 1]
        _NEIGHBOURS[_letter] = _around

_SOUND_ALIKE = """
its it's|their there they're|your you're|to too two|then than|of off|were where we're|whose who's
here hear|know no|new knew|right write|by buy bye|week weak|peace piece|wait weight|way weigh
our are hour|quite quiet|lose loose|passed past|see sea|be bee|so sew sow|for four fore|one won
would wood|through threw|whole hole|great grate|meet meat|made maid|tail tale|plain plane
break brake|some sum|son sun|hair hare|fair fare|bear bare|pair pear|steal steel|read red|led lead
brought bought|accept except|affect effect|advice advise|desert dessert|principal principle
whether weather|which witch|wear ware|waist waste|stare stair|sight site|sail sale|rode road
rain reign|night knight|mind mined|heard herd|heal heel|flower flour|feet feat|dear deer|cell sell
ate eight|aloud allowed|board bored|blew blue|been bean|ant aunt|not knot|in inn|him hymn|seen scene
stationary stationery|thrown throne|toe tow|told tolled|vain vein|wore war|choose chose
breath breathe|cloths clothes|as has|a an|and an|could can|this these|is his|lets let's
wont won't|were was|though through|who how|form from|trail trial|diary dairy|angel angle|on one
with whit|used use|than that|them then
""".strip().replace("\n", "|")
SOUND_ALIKE: dict[str, list[str]] = {}
for _group in _SOUND_ALIKE.split("|"):
    for _word in _group.split():
        _others = [word for word in _group.split() if word != _word]
        SOUND_ALIKE.setdefault(_word, []).extend(_others)

# (pattern, wrong forms): one place of the pattern gets one of the forms
_HABITS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(pattern), tuple(forms.split("|")))
    for pattern, forms in (
        (r"ie", "ei|ee"),
        (r"ei", "ie|ee"),
        (r"(?<=[a-z])(?:bb|cc|dd|ff|gg|ll|mm|nn|pp|rr|ss|tt|zz)(?=[a-z])", "="),
        (r"(?<=[aeiou])[bdfglmnprst](?=[aeiou])", "+"),
        (r"(?<=[a-z]{2})able$", "ible|abel"),
        (r"(?<=[a-z]{2})ible$", "able"),
        (r"(?<=[a-z]{2})ence$", "ance|ense"),
        (r"(?<=[a-z]{2})ance$", "ence|anse"),
        (r"(?<=[a-z]{2})ent$", "ant"),
        (r"(?<=[a-z]{2})ant$", "ent"),
        (r"(?<=[a-z]{2})tion$", "sion|tian|cion"),
        (r"(?<=[a-z]{2})sion$", "tion"),
        (r"(?<=[a-z]{2})ful$", "full"),
        (r"(?<=[a-z]{2})ly$", "ley|lly|y"),
        (r"(?<=[a-z]{2})ally$", "aly|ly"),
        (r"(?<=[a-z]{2})ous$", "us|ious|os"),
        (r"(?<=[a-z]{2})ed$", "d|t|de"),
        (r"(?<=[a-z]{2})ing$", "in|eing|ign"),
        (r"(?<=[a-z]{2})er$", "or|ar|re"),
        (r"(?<=[a-z]{2})or$", "er"),
        (r"(?<=[a-z]{2})al$", "el|le"),
        (r"(?<=[a-z]{2})le$", "el|al"),
        (r"(?<=[a-z]{2})y$", "ie|ey"),
        (r"(?<=[a-z]{2})ies$", "ys|yes"),
        (r"(?<=[a-z]{2})e$", ""),
        (r"ight", "ite|igth|ihgt"),
        (r"ough", "uff|ouhg|augh"),
        (r"augh", "ough|af"),
        (r"ph", "f"),
        (r"^kn", "n"),
        (r"^wh", "w"),
        (r"^wr", "r"),
        (r"(?<=[a-z])mb$", "m"),
        (r"sc(?=[ei])", "s|c"),
        (r"c(?=[ei])", "s"),
        (r"s(?=[ei])", "c"),
        (r"ck", "k|c"),
        (r"qu", "kw"),
        (r"tch", "ch"),
        (r"dge", "ge|dg"),
        (r"ea", "ee|e"),
        (r"ee", "ea|e"),
        (r"ai", "ay|ia|a"),
        (r"oa", "o|ao"),
        (r"ou", "u|o|uo"),
        (r"au", "ua|o"),
        (r"oo", "u|o"),
        (r"ui", "iu|i"),
        (r"(?<=[a-z])x(?=[a-z])", "ks|cs"),
        (r"(?<=[b-df-hj-np-tv-z])[aei](?=[b-df-hj-np-tv-z]{1,2}[aeiouy])", "~"),
        (r"(?<=[a-z])(?:st|ft)(?=en)", "s|f"),
        (r"th(?=[a-z])", "t|ht"),
        (r"^ex", "exc|ecs"),
        (r"gu(?=[aei])", "g|gau"),
    )
)


def slip(word: str, rng: random.Random) -> str | None:
    """A slip of the fingers: letters swapped, left out, put in, doubled, or a key beside."""
    if len(word) < 2:
        return None
    place = rng.randrange(len(word))
    kind = rng.choices(("swap", "drop", "insert", "double", "near"), (30, 24, 14, 12, 20))[0]
    if kind == "swap":
        place = rng.randrange(len(word) - 1)
        wrong = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    elif kind == "drop" and len(word) > 2:
        wrong = word[:place] + word[place + 1 :]
    elif kind == "double":
        wrong = word[:place] + word[place] + word[place:]
    else:
        near = _NEIGHBOURS.get(word[place], "e")
        letter = rng.choice(near)
        # what is put in by a finger that hits two keys stands before or after the right one
        kept = "" if kind == "near" else word[place]
        wrong = word[:place] + rng.choice((kept + letter, letter + kept)) + word[place + 1 :]
    return wrong if wrong != word else None


def habit(word: str, rng: random.Random) -> str | None:
    """A misspelling that people make on purpose: by sound, by a wrong rule, by a wrong ending."""
    if len(word) < 4:
        return None
    found = [(m, forms) for pattern, forms in _HABITS for m in pattern.finditer(word)]
    if not found:
        return None
    match, forms = rng.choice(found)
    wrong = word[: match.start()] + _form(match[0], rng.choice(forms), rng) + word[match.end() :]
    return wrong if wrong != word else None


def _form(right: str, form: str, rng: random.Random) -> str:
    if form == "=":  # a double letter once
        return right[0]
    if form == "+":  # a single letter twice
        return right * 2
    if form == "~":  # another unstressed vowel
        return rng.choice("aeiou".replace(right, ""))
    return form


def sound_alike(word: str, rng: random.Random) -> str | None:
    """Another word that sounds the same or is often written in its place."""
    others = SOUND_ALIKE.get(word)
    return rng.choice(others) if others else None
