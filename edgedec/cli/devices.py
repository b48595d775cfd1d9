"""`edgedec devices`: what could run a model here, and what is missing where nothing can."""

from __future__ import annotations

from dataclasses import asdict

import click

from edgedec.cli import _output


@click.command()
@click.option("--device", metavar="NAME", help="Only this one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(device: str | None, as_json: bool) -> None:
    """List the devices of every runtime.

    A device that cannot be used is listed with the reason and with what to install.

    \b
    Examples:
      edgedec devices
      edgedec devices --device cpu --json
    """
    from edgedec import devices
    from edgedec.errors import DeviceError

    listed = devices.devices()
    found = [d for d in listed if device in (None, d.name)]
    if not found:
        there = ", ".join(dict.fromkeys(d.name for d in listed)) or "none"
        raise DeviceError(f"no device {device!r}; there is: {there}")
    if as_json:
        _output.print_json({"schema": 1, "devices": [asdict(d) for d in found]})
        return
    _output.print_table(
        ("device", "runtime", "state", "description"),
        [(d.name, d.runtime, "no" if d.problem else "ready", d.description) for d in found],
    )
    for each in found:
        if each.problem is not None:
            click.echo(f"\n{each.name} ({each.runtime}): {each.problem}")
