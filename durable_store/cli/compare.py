"""What changed between two steps: `diff`."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from itertools import takewhile
from typing import Annotated, Any, NamedTuple

import jsonpatch
import jsonpointer
import typer
from rich.text import Text

from durable_store.cli.look import Key, Url, existing, find
from durable_store.cli.output import Failure, console, on_terminal, print_line, printable, to_json
from durable_store.key import CheckpointKey

_MOST_SHOWN = 120  # characters of a value
_HOW = "for A and B"
_STYLES = {"+": "green", "-": "red", "~": "yellow"}


def diff(
    url: Url,
    key: Key,
    before: Annotated[int | None, typer.Argument(metavar="A", help="A step; by default the last but one.")] = None,
    after: Annotated[int | None, typer.Argument(metavar="B", help="Another; by default the newest.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON Patch (RFC 6902) from A to B.")] = False,
) -> None:
    """Show what changed in the state from step A to step B.

    Each line is a place in the state: what was added there (+), removed (-), or was something else before (~).
    """
    wanted = CheckpointKey.parse(key)
    with existing(url) as store:
        steps = store.backend.steps(wanted)
        new = find(store, wanted, after, how=_HOW)
        if before is None:
            older = [step for step in steps if step < new.step]
            if not older:
                raise Failure(f"{wanted} has no step before {new.step} to compare it with")
            before = older[0]
        old = find(store, wanted, before, how=_HOW)
    patch: list[dict[str, Any]] = jsonpatch.make_patch(old.state, new.state).patch
    if as_json:
        typer.echo(to_json(patch))
        return
    changes = sorted(_changes(old.state, patch), key=_Change.place)
    if not patch:
        print_line(f"{wanted}: steps {old.step} and {new.step} hold the same state")
    elif on_terminal():
        _print_tree(changes)
    else:
        for change in changes:
            print_line("\t".join((change.sign, change.pointer, *map(to_json, change.values))))


class _Change(NamedTuple):
    """One operation of a patch: where, and the values that came or went; of a replacement the old one and the new."""

    sign: str
    pointer: str
    values: list[Any]

    def place(self) -> list[str]:
        """What it is ordered by: the names down to the first list, for changes within a list follow one another."""
        parts: list[str] = jsonpointer.JsonPointer(self.pointer).parts
        return list(takewhile(lambda part: not part.isdecimal(), parts))


def _changes(state: Any, patch: list[dict[str, Any]]) -> Iterator[_Change]:
    """The changes in their order, each at its place in the state as those before it have left it."""
    state = deepcopy(state)
    for operation in patch:
        pointer: str = operation["path"]
        match operation["op"]:
            case "add":
                yield _Change("+", pointer, [operation["value"]])
            case "remove":
                yield _Change("-", pointer, [jsonpointer.resolve_pointer(state, pointer)])
            case "replace":
                yield _Change("~", pointer, [jsonpointer.resolve_pointer(state, pointer), operation["value"]])
            case _:  # a move
                moved = jsonpointer.resolve_pointer(state, operation["from"])
                yield _Change("-", operation["from"], [moved])
                yield _Change("+", pointer, [moved])
        state = jsonpatch.apply_patch(state, [operation], in_place=True)


def _print_tree(changes: Iterable[_Change]) -> None:
    """A line for each change, below the places that it is in."""
    above: list[str] = []
    for sign, pointer, values in changes:
        *places, last = [printable(part) for part in jsonpointer.JsonPointer(pointer).parts] or ["(all of it)"]
        for depth, place in enumerate(places):
            if above[: depth + 1] != places[: depth + 1]:
                console().print(Text("  " * depth + place, style="bold"), soft_wrap=True)
        above = places
        line = f"{'  ' * len(places)}{sign} {last}: {' → '.join(map(_short, values))}"
        console().print(Text(line, style=_STYLES[sign]), soft_wrap=True)


def _short(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
