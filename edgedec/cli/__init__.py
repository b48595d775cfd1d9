"""The command line: one file is one command, and only this folder prints.

A file's `command` becomes `edgedec <file name>`; files that begin with an underscore are shared by
commands. Nothing heavy is imported before a command that needs it runs.
"""

from __future__ import annotations

import errno
from typing import Any

import click

import edgedec
from edgedec import rooms
from edgedec.cli import _output
from edgedec.errors import EdgedecError, UsageError

FAILED, MISUSED, SIMULATED, INTERRUPTED = 1, 2, 3, 130


class Room(click.Group):
    """The commands in this folder; errors become one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return rooms.names(__name__)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the one command that is asked for."""
        if cmd_name not in rooms.names(__name__):
            return None
        command: click.Command = rooms.load(__name__, cmd_name).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what goes wrong on purpose is told in one line, without a traceback."""
        try:
            return super().invoke(ctx)
        except EdgedecError as error:
            click.echo(f"edgedec: {error}", err=True)
            ctx.exit(MISUSED if isinstance(error, UsageError) else FAILED)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except OSError as error:
            # A pipe that was closed is not an error: click ends quietly there.
            if error.errno != errno.ENOSPC:
                raise
            _output.drop_stdout()
            click.echo("edgedec: the disk is full: make room or write elsewhere", err=True)
            ctx.exit(FAILED)


@click.group(cls=Room, context_settings={"max_content_width": 100})
@click.version_option(edgedec.__version__, prog_name="edgedec")
def main() -> None:
    """Text generation on the device in front of you.

    \b
    Examples:
      edgedec generate "Once upon a time"
      edgedec chat
      edgedec export ./SmolLM2-135M -o smollm2
      edgedec generate -m smollm2 --json "The capital of France is"
    """
