"""How things are shown: tables on a terminal, tab-separated lines in a pipe, JSON for programs."""

import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from durable_store.key import CheckpointKey
from durable_store.record import timestamp

Row = dict[str, Any]
"""What `--json` prints of one thing; tables show some of its fields."""

NOTHING = "-"
_GAP = 2  # blanks between two columns
_LEAST_FOLDED = 16  # in fewer characters a folded key is no longer read as one
_MOST_RANGES = 10
_NOT_ASCII = re.compile(r"[^\n -~]")


class Failure(Exception):
    """What was asked for could not be had: one line that says why, and exit status 1."""


@dataclass(frozen=True, slots=True)
class Column:
    """One field of the rows; `pretty` shortens it for people, `style` colours it by its value.

    A `key` is printed as it is, to be pasted: its text form has no control characters.

    On a terminal too narrow for all columns those with a `leaves` are left out one by one, the lowest first.
    """

    title: str
    field: str
    pretty: Callable[[Any], str] | None = None
    right: bool = False
    fold: bool = False
    leaves: int = 0
    style: Callable[[Any], str] | None = None

    def plain(self, row: Row) -> str:
        """The field in full, on one line."""
        value = row[self.field]
        if value is None or value is False or value in ("", [], {}):
            return NOTHING
        if value is True:
            return self.field
        if self.field == "key":
            return str(value)
        return printable(value if isinstance(value, str) else to_json(value))

    def text(self, row: Row) -> Text:
        """The field for a table; a Text, so that markup in it means nothing."""
        value = row[self.field]
        shown = self.plain(row)
        if self.pretty and shown != NOTHING:
            shown = self.pretty(value)
        return Text(printable(shown), style=self.style(value) if self.style else "")


def on_terminal() -> bool:
    """Whether people look at what is printed."""
    return sys.stdout.isatty()


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leaves a closed pipe to the program, as everywhere else: rich would end it with status 1."""
        raise BrokenPipeError


def console(width: int | None = None) -> Console:
    """A console that interprets nothing in what it prints, as wide as the terminal if it is not told how wide."""
    return _Console(width=width, markup=False, emoji=False, highlight=False)


def error_console() -> Console:
    """The same on stderr."""
    return _Console(stderr=True, markup=False, emoji=False, highlight=False)


def say(line: str) -> None:
    """Prints it on stderr. Where nobody can read that, the exit status tells."""
    try:
        typer.echo(line, err=True)
    except OSError:
        give_up(sys.stderr)


def give_up(stream: TextIO) -> None:
    """Drops what could not be written: Python would try again at its end, fail, and end with a status of its own."""
    with suppress(io.UnsupportedOperation):  # one that is no file drops nothing
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def print_line(line: str) -> None:
    """Prints it, with nothing in it that could act on a terminal; tabs stay."""
    typer.echo("\t".join(map(printable, line.split("\t"))))


def print_folded(screen: Console, line: str, *, indent: str = "", style: str = "") -> None:
    """Prints a line, folded where the screen ends, and nothing behind its last word."""
    further = " " * len(indent)
    folded = textwrap.wrap(printable(line), screen.width, initial_indent=indent, subsequent_indent=further)
    screen.print(Text("\n".join(folded), style=style))


def print_rows(columns: list[Column], rows: Iterable[Row], *, as_json: bool) -> int:
    """Prints the rows and returns how many. In a pipe and as JSON each row is printed as it comes."""
    count = 0
    if as_json:
        for count, row in enumerate(rows, 1):
            typer.echo(("[" if count == 1 else ",\n") + to_json(row), nl=False)
        typer.echo("]" if count else "[]")
    elif on_terminal():
        found = list(rows)
        count = len(found)
        if found:
            _print_table(columns, found)
    else:
        for count, row in enumerate(rows, 1):
            if count == 1:
                typer.echo("\t".join(column.title for column in columns))
            typer.echo("\t".join(column.plain(row) for column in columns))
    return count


def key_fields(key: CheckpointKey) -> Row:
    """A key as text to paste, and in its parts."""
    return {
        "key": str(key),
        "goal_id": key.goal_id,
        "episode_id": key.episode_id,
        "checkpoint_id": key.checkpoint_id,
    }


def time_field(when: datetime | None) -> str | None:
    """UTC, ISO 8601, microseconds; None when it cannot be known."""
    return None if when is None else timestamp(when)


def ranges(steps: list[int]) -> str:
    """Steps for people, newest first: `60-55, 31, 0`."""
    found: list[list[int]] = []
    for step in steps:
        if found and found[-1][-1] == step + 1:
            found[-1][1:] = [step]
        else:
            found.append([step])
    shown = ["-".join(map(str, ends)) for ends in found]
    return ", ".join(shown[:_MOST_RANGES]) + (", …" if len(shown) > _MOST_RANGES else "")


def to_json(value: object, *, indent: int | None = None) -> str:
    """JSON in which nothing can act on a terminal: whatever is not printable is escaped."""
    return _NOT_ASCII.sub(_escaped, json.dumps(value, ensure_ascii=False, indent=indent))


def printable(text: str) -> str:
    """The text on one line, with whatever is not printable escaped."""
    return _NOT_ASCII.sub(_escaped, text).replace("\n", "\\n")


def pretty_time(when: str) -> str:
    """The same to the second."""
    return f"{when[:19]}Z"


def pretty_size(size: int) -> str:
    """Bytes in the unit that fits."""
    return decimal(size)


def _print_table(columns: list[Column], rows: list[Row]) -> None:
    screen = console()
    least = {column.title: _least_width(column, rows) for column in columns}
    shown, left_out = list(columns), list[str]()
    for column in sorted((each for each in columns if each.leaves), key=lambda each: each.leaves):
        if sum(least[each.title] + _GAP for each in shown) - _GAP <= screen.width:
            break
        shown.remove(column)
        left_out.append(column.title)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column in shown:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=not column.fold,
        )
    for row in rows:
        table.add_row(*(column.text(row) for column in shown))
    screen.print(table)
    if left_out:
        screen.print(Text(f"left out, as the terminal is narrow: {', '.join(left_out)}", style="dim"))


def _least_width(column: Column, rows: list[Row]) -> int:
    """The characters that a column cannot do without."""
    widest = max(column.text(row).cell_len for row in rows)
    return max(len(column.title), min(widest, _LEAST_FOLDED) if column.fold else widest)


def _escaped(match: re.Match[str]) -> str:
    return match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1]
