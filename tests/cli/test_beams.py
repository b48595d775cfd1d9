"""Beams and several texts on the command line, with the fake runtime."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import edgedec
from edgedec.cli import main

pytestmark = pytest.mark.usefixtures("fake_device")


def run(bundle: Path, *args: str) -> Result:
    line = ["generate", "-m", str(bundle), "--device", "fake", "Hello", "-n", "8", *args]
    return CliRunner().invoke(main, line, prog_name="edgedec")


def test_one_text_of_a_search(plain_bundle: Path) -> None:
    result = run(plain_bundle, "--beams", "3", "--length-penalty", "0.5", "--patience", "2")
    with edgedec.load(plain_bundle, device="fake") as model:
        done = model.generate(
            "Hello", max_new_tokens=8, num_beams=3, length_penalty=0.5, patience=2.0
        )
    assert result.exit_code == 0, result.stderr
    assert result.stdout == done.text + "\n"
    assert f"score {done.score:.4f}" in result.stderr


def test_several_texts_are_numbered(plain_bundle: Path) -> None:
    options = ("--beams", "4", "--beam-groups", "2", "--diversity-penalty", "2")
    result = run(plain_bundle, *options, "--early-stopping", "never", "--return-sequences", "2")
    assert result.exit_code == 0, result.stderr
    with edgedec.load(plain_bundle, device="fake") as model:
        found = model.generate(
            "Hello",
            max_new_tokens=8,
            num_beams=4,
            num_beam_groups=2,
            diversity_penalty=2.0,
            early_stopping="never",
            num_return_sequences=2,
        )
    assert isinstance(found, list)
    assert result.stdout == "".join(f"{i}: {each.text}\n" for i, each in enumerate(found, 1))
    assert result.stderr.count("\n") == 2
    assert found[0].score >= found[1].score


def test_the_document_of_several_texts(plain_bundle: Path) -> None:
    several = ("-t", "0.9", "--seed", "5", "--return-sequences", "3", "--json")
    document = json.loads(run(plain_bundle, *several).stdout)
    assert [*document] == ["schema", "sequences"]
    assert document["schema"] == 1
    assert [each["seed"] for each in document["sequences"]] == [5, 6, 7]
    alone = json.loads(run(plain_bundle, "-t", "0.9", "--seed", "6", "--json").stdout)
    assert document["sequences"][1]["tokens"] == alone["tokens"]
    assert [*document["sequences"][1]] == [key for key in alone if key != "schema"]
    assert "score" not in alone


def test_the_document_of_a_search_has_its_score(plain_bundle: Path) -> None:
    document = json.loads(run(plain_bundle, "--beams", "2", "--json").stdout)
    assert document["schema"] == 1
    assert document["score"] < 0


def test_what_must_not_come(plain_bundle: Path) -> None:
    options = ("--no-repeat-ngram", "1", "--min-new-tokens", "8", "--json")
    tokens = json.loads(run(plain_bundle, *options).stdout)["tokens"]
    assert len({*tokens}) == len(tokens) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--beams", "2", "-t", "1"], "2 beams and a temperature of 1.0"),
        (["--beams", "2", "--stop", "x"], "stop does not go with beams"),
        (["--beams", "2", "--return-sequences", "3"], "num_return_sequences is 3"),
        (["--return-sequences", "3"], "3 return sequences would all be the same"),
        (["--patience", "2"], "patience is 2.0, but nothing is searched for"),
        (["--beams", "6", "--beam-groups", "4"], "must divide num_beams"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    plain_bundle: Path, options: list[str], message: str
) -> None:
    result = run(plain_bundle, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
