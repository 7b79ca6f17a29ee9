"""Looking into a store: `ls`, `history`, `show`. They change nothing and create nothing."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.highlighter import JSONHighlighter
from rich.text import Text

from durable_store import episode as episodes
from durable_store.cli.output import (
    Column,
    Failure,
    Row,
    console,
    key_fields,
    on_terminal,
    pretty_size,
    pretty_time,
    print_rows,
    printable,
    ranges,
    say,
    time_field,
    to_json,
)
from durable_store.errors import CheckpointDamaged, CheckpointNotFound, CheckpointUnsupported, StoreUnavailable
from durable_store.key import CheckpointKey, goal_from_text
from durable_store.record import Checkpoint
from durable_store.store import Store, open_store

Url = Annotated[str, typer.Argument(metavar="URL", help="The store: sqlite:///runs.db, file:///directory, …")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="GOAL/EPISODE/CHECKPOINT, as `ls` shows it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON array, an object for each row.")]

_MOST_NAMED = 5
_MOST_COLOURED = 200_000  # characters: beyond it colouring JSON takes seconds
_OF_EPISODE = "episode "  # before what is wrong with the episode's record, and not with the key's
STATUS_STYLES = {
    "running": "cyan",
    "finished": "green",
    "failed": "yellow",
    "damaged": "bold red",
    "unsupported": "bold red",
    "unavailable": "bold red",
}


def _status_style(status: object) -> str:
    return STATUS_STYLES.get(str(status).removeprefix(_OF_EPISODE), "")


_KEYS = [
    Column("KEY", "key", fold=True),
    Column("STEP", "step", right=True, leaves=4),
    Column("STEPS", "steps", right=True, leaves=3),
    Column("SIZE", "size", pretty=pretty_size, right=True, leaves=2),
    Column("SAVED AT", "saved_at", pretty=pretty_time, leaves=1),
    Column("STATUS", "status", leaves=5, style=_status_style),
]
_STEPS = [
    Column("STEP", "step", right=True),
    Column("SAVED AT", "saved_at", pretty=pretty_time, leaves=5),
    Column("SIZE", "size", pretty=pretty_size, right=True, leaves=2),
    Column("ENCODING", "encoding", pretty=", ".join, leaves=1),
    Column("WRITER", "writer", fold=True, leaves=3),
    Column("META", "meta", fold=True, leaves=4),
    Column("DAMAGED", "damaged", leaves=6, style=lambda damaged: "bold red" if damaged else ""),
]


class _Standing(NamedTuple):
    """The status of a row, and the error behind it when it is one."""

    status: str | None
    problem: str | None = None


_NO_EPISODE = _Standing(None)


def ls(
    url: Url,
    *,
    goal: Annotated[str | None, typer.Option("--goal", metavar="GOAL", help="Only the keys of this goal.")] = None,
    as_json: Json = False,
) -> None:
    """List what is in a store: one row for each key.

    The latest step, how many steps there are, the size of the latest state and when it was saved. The status is the
    episode's (running, finished, failed), `damaged` when the latest step cannot be read, `unsupported` when a newer
    version wrote it, `unavailable` when the storage refuses it: then the exit status is 1. In a pipe the fields are
    separated by tabs, and times and sizes are exact. A store whose fencing is off is named on stderr.
    """
    refusals: list[str] = []
    name = None if goal is None else goal_from_text(goal)
    with existing(url) as store:
        if getattr(store.backend, "fencing", True) is False:
            say("durable-store: fencing is off in this store: two writers of one step can both win")
        keys = store.keys(name)
        if on_terminal() and not as_json:
            keys = iter(sorted(keys))  # people search with their eyes; a pipe gets each row as soon as it is known
        count = print_rows(_KEYS, _rows_of_keys(store, keys, refusals), as_json=as_json)
        if not count and not as_json:
            of_goal = "" if name is None else f" of goal {name!r}"
            typer.echo(f"no checkpoints{of_goal} in {printable(url)}")
    if refusals:
        raise Failure(f"of {count} keys {len(refusals)} could not be read in full; the first: {refusals[0]}")


def history(url: Url, key: Key, *, as_json: Json = False) -> None:
    """List the steps of a key, newest first.

    It reads their headers alone and marks those that are damaged; `show` finds out whether a state can be read.
    """
    wanted = CheckpointKey.parse(key)
    with existing(url) as store:
        rows: list[Row] = [
            {
                **key_fields(info.key),
                "step": info.step,
                "saved_at": time_field(info.saved_at),
                "size": None if info.damaged else info.size,
                "encoding": list(info.encoding),
                "writer": info.writer,
                "meta": info.meta,
                "damaged": info.damaged,
            }
            for info in store.history(wanted)
        ]
        if not rows:
            raise Failure(_no_such_key(store, wanted))
    seen = [column for column in _STEPS if any(row[column.field] for row in rows)]
    print_rows(seen if on_terminal() else _STEPS, rows, as_json=as_json)


def show(
    url: Url,
    key: Key,
    *,
    step: Annotated[int | None, typer.Option("--step", metavar="N", help="The step; by default the newest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: all of it and the state.")] = False,
) -> None:
    """Print what was saved at one step of a key.

    With --json the state stands beside the other fields; else it follows them.
    """
    wanted = CheckpointKey.parse(key)
    with existing(url) as store:
        checkpoint = find(store, wanted, step)
    fields: Row = {
        **key_fields(checkpoint.key),
        "step": checkpoint.step,
        "saved_at": time_field(checkpoint.saved_at),
        "writer": checkpoint.writer,
        "size": checkpoint.size,
        "meta": checkpoint.meta,
        "skipped": list(checkpoint.skipped),
        "state": checkpoint.state,
    }
    if as_json:
        typer.echo(to_json(fields))
        return
    for name in ("key", "step", "saved_at", "writer", "size", "meta"):
        _print_fact(name, fields)
    _print_state(checkpoint.state)


def goals_there(store: Store, texts: list[str] | None) -> list[str] | None:
    """The goals that were named, each of which must be there; None for all."""
    if not texts:
        return None
    names = [goal_from_text(text) for text in texts]
    for name in names:
        if next(store.backend.keys(name), None) is None:
            raise Failure(f"there is no goal {name!r} in this store: see `durable-store ls`")
    return names


@contextmanager
def existing(url: str) -> Generator[Store]:
    """The store, which must be there: a mistyped path is not an empty store."""
    with open_store(url) as store:
        path = getattr(store.backend, "path", None)
        if isinstance(path, Path):
            try:
                path.stat()
            except (FileNotFoundError, NotADirectoryError):
                raise Failure(f"there is no store at {path}") from None
            except OSError:
                pass  # the backend says it better
        yield store


def _rows_of_keys(store: Store, keys: Iterator[CheckpointKey], refusals: list[str]) -> Iterator[Row]:
    """A row for each key; what the storage refused is added to `refusals`, once for each key that misses it."""
    attempt: tuple[str, int] | None = None
    episode = _NO_EPISODE
    for key in keys:
        if (key.goal_id, key.episode_id) != attempt:  # the keys of an episode mostly come one after the other
            attempt = (key.goal_id, key.episode_id)
            episode = _standing_of_episode(store, key)
        row = _row_of_key(store, key, episode)
        if row:
            if str(row["status"]).endswith("unavailable"):
                refusals.append(row["problem"])
            yield row


def _row_of_key(store: Store, key: CheckpointKey, episode: _Standing) -> Row | None:
    row: Row = {**key_fields(key), "step": None, "steps": None, "size": None, "saved_at": None}
    standing = episode
    try:
        newest = store.latest(key)
    except (CheckpointDamaged, StoreUnavailable) as err:
        standing = _Standing(trouble(err), str(err))
    else:
        if newest is None:
            return None  # removed since it was listed
        row.update(size=newest.size, saved_at=time_field(newest.saved_at))
    try:
        steps = store.backend.steps(key)
    except StoreUnavailable as err:
        standing = _Standing(trouble(err), str(err))
    else:
        row.update(step=max(steps, default=None), steps=len(steps))
    return {**row, "status": standing.status, "problem": standing.problem}


def _standing_of_episode(store: Store, key: CheckpointKey) -> _Standing:
    try:
        episode = episodes.read(store.backend, key.goal_id, key.episode_id)
    except (CheckpointDamaged, StoreUnavailable) as err:
        return _Standing(f"{_OF_EPISODE}{trouble(err)}", str(err))
    return _NO_EPISODE if episode is None else _Standing(episode.status)


def trouble(err: CheckpointDamaged | StoreUnavailable) -> str:
    """The status of what cannot be read."""
    if isinstance(err, StoreUnavailable):
        return "unavailable"
    return "unsupported" if isinstance(err, CheckpointUnsupported) else "damaged"


def find(store: Store, key: CheckpointKey, step: int | None, *, how: str = "for --step") -> Checkpoint:
    """The checkpoint; where it cannot be had, the error says what can, and how."""
    try:
        checkpoint = store.latest(key) if step is None else store.load(key, step)
    except CheckpointUnsupported:
        raise
    except (CheckpointDamaged, CheckpointNotFound) as err:
        there = [each for each in store.backend.steps(key) if each != step]
        if not there:
            raise Failure(_no_such_key(store, key) if isinstance(err, CheckpointNotFound) else str(err)) from err
        raise Failure(f"{err} (the steps that are there, {how}: {ranges(there)})") from err
    if checkpoint is None:
        raise Failure(_no_such_key(store, key))
    return checkpoint


def _no_such_key(store: Store, key: CheckpointKey) -> str:
    message = f"no checkpoints under {key}"
    for where, goal in ((f"goal {key.goal_id!r} has", key.goal_id), ("there are", None)):
        near = list(islice(store.keys(goal), _MOST_NAMED + 1))
        if near:
            more = ", …" if len(near) > _MOST_NAMED else ""
            return f"{message}; {where} {', '.join(map(str, near[:_MOST_NAMED]))}{more}"
    return f"{message}: the store is empty"


def _print_fact(name: str, row: Row) -> None:
    column = Column(name.replace("_", " "), name)
    if on_terminal():
        console().print(Text.assemble((f"{column.title:<10}", "bold"), column.text(row)), soft_wrap=True)
    else:
        typer.echo(f"{name}\t{column.plain(row)}")


def _print_state(state: Any) -> None:
    text = to_json(state, indent=2)
    if on_terminal() and len(text) <= _MOST_COLOURED:
        console().print(JSONHighlighter()(text), soft_wrap=True)
    else:
        typer.echo(text)
