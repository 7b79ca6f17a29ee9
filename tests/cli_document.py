"""Writes docs/CLI.md from the command itself: `python -m tests.cli_document`."""

from pathlib import Path
from typing import Any, cast

import typer

from durable_store.cli.app import app

DOCUMENT = Path(__file__).parent.parent / "docs" / "CLI.md"

_WIDTH = 96
_HEAD = """# The command

`pip install 'durable-store[cli]'` brings `durable-store`. This is what it says of itself, written by
`python -m tests.cli_document`; do not edit.

On a terminal there are tables, colours and, on long work, a bar; in a pipe there are lines with fields separated by
tabs, exact times and sizes, and no colour; with `--json` there is JSON. What goes wrong is one line on stderr.

| exit status | |
|---|---|
| 0 | done |
| 1 | failed, or not all of it was done: for `verify` and `copy` also if a record is damaged, for `conformance` if a \
clause failed; or what it prints could not be written |
| 2 | misused: nothing was saved or removed |
| 3 | `conformance` alone: it could not be evaluated |
| 130 | stopped by Ctrl-C |
| 141 | whoever read its output has gone, as `head` does |
"""


def document() -> str:
    """All of it."""
    group = cast("Any", typer.main.get_command(app))
    program = group.make_context("durable-store", [], resilient_parsing=True)
    parts = [_HEAD]
    for name, command in group.commands.items():
        context = type(program)(command, info_name=name, parent=program, terminal_width=_WIDTH)
        parts.append(f"\n## {name}\n\n```text\n{command.get_help(context).strip()}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    DOCUMENT.write_text(document())
