"""`edgedec warm`: what it writes, where, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import edgedec
from edgedec.bundle import open_bundle
from edgedec.cli import _options, main
from edgedec.policies import NAMES


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], prog_name="edgedec")


def test_a_folder_of_hot_starts_from_a_file_of_prompts(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("One day, Lily\nThe king had a\n")
    result = run("warm", prompts, "-o", tmp_path / "hot", "--tokens", "300", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert set(document["bytes"]) == {"token_recycling", "trigram"}
    for name, size in document["bytes"].items():
        assert (tmp_path / "hot" / f"{name}.safetensors").stat().st_size == size
    hot = str(tmp_path / "hot" / "trigram.safetensors")
    options = {"hot_start": hot}
    with edgedec.load("stories", strategy="trigram", strategy_options=options) as model:
        assert model.generate("One day, Lily", max_new_tokens=8).new_tokens == 8


def test_into_a_bundle(tmp_path: Path) -> None:
    bundle = tmp_path / "mine"
    shutil.copytree(open_bundle("stories").path, bundle)
    link = tmp_path / "link"
    link.symlink_to(bundle)
    result = run("warm", "-m", link, "--tokens", "200")
    assert result.exit_code == 0, result.output
    assert "trigram" in result.stdout
    assert link.is_symlink()
    small = open_bundle(bundle).strategy_file("trigram")
    shipped = open_bundle("stories").strategy_file("trigram")
    assert small is not None
    assert shipped is not None
    assert small.stat().st_size < shipped.stat().st_size


def test_what_ships_is_not_written_to() -> None:
    result = run("warm", "--tokens", "10")
    assert result.exit_code == 2
    assert (
        result.stderr
        == "edgedec: stories ships with edgedec, its bundle stays as it is: give -o FOLDER\n"
    )


@pytest.mark.parametrize(
    ("text", "message"), [("", "prompt"), ("\n\n", "prompt"), ("word " * 2000, "longer than")]
)
def test_prompts_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(text)
    result = run("warm", prompts, "-o", tmp_path / "hot", "--tokens", "10")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "hot").exists()


def test_the_policies_of_the_command_line_are_those_there_are() -> None:
    """They stand twice, so that help needs no numpy."""
    assert _options.POLICIES == NAMES


def test_a_reader_is_warmed_up_by_what_it_reads(
    source_bundle: Path, fake_device: None, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("teh cat\nthe dgo\n")
    reader = ["-m", source_bundle, "--device", "fake", "-o", tmp_path / "hot", "--tokens", "50"]
    assert run("warm", prompts, *reader).exit_code == 0
    assert (tmp_path / "hot" / "trigram.safetensors").exists()
    nothing = run("warm", *reader)
    assert nothing.exit_code == 1
    assert "give a file of texts for it to read" in nothing.stderr
    prompts.write_text("x" * 65)
    assert "longer than the context" in run("warm", prompts, *reader).stderr
