"""The command that lists cameras and microphones."""

from __future__ import annotations

import argparse
import json
import shlex

from rich.console import Console
from rich.table import Table
from rich.text import Text

from counterpoint.engine.cli.common import print_line, wants_json
from counterpoint.streams.devices import Device, list_devices
from counterpoint.streams.errors import UnavailableError


def devices(args: argparse.Namespace) -> int:
    """List them: 0 if there is any that can be used, else 3."""
    found = list_devices()
    if wants_json(args):
        for device in found:
            print_line(json.dumps(_document(device), ensure_ascii=False))
    else:
        Console().print(_table(found))
    usable = any(device.argument is not None and device.problem is None for device in found)
    return 0 if usable else UnavailableError.exit_code


def _document(device: Device) -> dict[str, str | None]:
    return {
        "kind": device.kind,
        "option": device.option,
        "argument": device.argument,
        "name": device.name,
        "detail": device.detail,
        "problem": device.problem,
    }


def _table(found: tuple[Device, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for device in found:
        if device.argument is None:
            # Names come from devices: as plain text, so that a "[" in one is only that.
            table.add_row(f"no {device.kind}", Text(device.problem or ""))
            continue
        write = f"{device.option} {shlex.quote(device.argument)}"
        table.add_row(Text(write), Text(device.name), Text(device.problem or device.detail))
    return table
