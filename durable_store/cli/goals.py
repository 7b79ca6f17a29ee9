"""What a store holds, goal by goal: `episodes`, `stats`."""

from collections import Counter
from typing import Annotated

import typer

from durable_store import episode as episodes_of
from durable_store.cli.look import STATUS_STYLES, Url, existing, trouble
from durable_store.cli.output import (
    Column,
    Failure,
    Row,
    key_fields,
    on_terminal,
    pretty_size,
    pretty_time,
    print_line,
    print_rows,
    time_field,
    to_json,
)
from durable_store.cli.progress import progress, records_in
from durable_store.errors import CheckpointDamaged, StoreUnavailable, count_of
from durable_store.key import EPISODE_ID, CheckpointKey, goal_from_text
from durable_store.operations.ahead import AT_ONCE, threads_for
from durable_store.operations.places import records_of
from durable_store.store import Store

_LARGEST = 10

_EPISODES = [
    Column("EPISODE", "episode_id", right=True),
    Column("STATUS", "status", style=lambda status: STATUS_STYLES.get(str(status), "")),
    Column("ROOT", "root", fold=True, leaves=3),
    Column("STARTED", "started", pretty=pretty_time, leaves=2),
    Column("ENDED", "ended", pretty=pretty_time, leaves=4),
    Column("RESULT", "result", fold=True, leaves=1),
]
_KEYS = [
    Column("KEY", "key", fold=True),
    Column("STEPS", "steps", right=True),
    Column("SIZE", "size", pretty=pretty_size, right=True),
]


def episodes(
    url: Url,
    goal: Annotated[str, typer.Argument(metavar="GOAL", help="The goal, as `ls` shows it in front of the first /.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array, an object for each row.")] = False,
) -> None:
    """List the episodes of a goal, newest first: how each stands, since when, and what came of it.

    The status is running, finished, failed or deleted; where that cannot be read it is `damaged`, `unsupported` when a
    newer version wrote it, or `unavailable` when the storage refuses it: then the exit status is 1.
    """
    name = goal_from_text(goal)
    refusals: list[str] = []
    with existing(url) as store:
        there = [key.episode_id for key in store.backend.keys(name) if key.checkpoint_id == EPISODE_ID]
        if not there:
            raise Failure(f"goal {name!r} has no episodes: see `durable-store ls`")
        rows = (_row(store, name, number, refusals) for number in sorted(there, reverse=True))
        count = print_rows(_EPISODES, rows, as_json=as_json)
    if refusals:
        raise Failure(f"of {count_of(count, 'episode')} {len(refusals)} could not be read; the first: {refusals[0]}")


def _row(store: Store, goal: str, number: int, refusals: list[str]) -> Row:
    """How the episode stands, or that this cannot be read; what the storage refuses is added to `refusals`."""
    row: Row = dict.fromkeys(("root", "started", "ended", "result", "problem"))
    try:
        found = episodes_of.read(store.backend, goal, number)
    except (CheckpointDamaged, StoreUnavailable) as err:
        if isinstance(err, StoreUnavailable):
            refusals.append(str(err))
        return {"episode_id": number, **row, "status": trouble(err), "problem": str(err)}
    if found:
        times = {"started": time_field(found.started), "ended": time_field(found.ended)}
        row |= {"status": found.status, "root": found.root, "result": found.result, **times}
    return {"episode_id": number, "status": None, **row}


def stats(
    url: Url,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count what is in a store: goals, episodes, keys, steps and their bytes, and the ten largest keys.

    It reads all of it, since the bytes of a record are known no other way. The small records that the store keeps for
    itself, of episodes for one, are not counted.
    """
    sizes: Counter[CheckpointKey] = Counter()
    steps: Counter[CheckpointKey] = Counter()
    refusals: list[str] = []
    with (
        existing(url) as store,
        progress("stats", records_in(store.backend, store.keys())) as seen,
        threads_for("stats") as threads,
    ):
        for found in records_of(store.backend, store.keys(), threads, AT_ONCE):
            if found.refused:
                refusals.append(str(found.refused))
            if found.step is None or (found.record is None and not found.refused):
                continue  # not to be listed, or removed since it was
            size = len(found.record or b"")
            steps[found.key] += 1
            sizes[found.key] += size
            seen(size)
    counts: Row = {
        "goals": len({key.goal_id for key in steps}),
        "episodes": len({(key.goal_id, key.episode_id) for key in steps}),
        "keys": len(steps),
        "steps": steps.total(),
        "size": sizes.total(),
    }
    largest: list[Row] = [
        {**key_fields(key), "steps": steps[key], "size": size} for key, size in sizes.most_common(_LARGEST)
    ]
    _tell(counts, largest, as_json=as_json)
    if refusals:
        raise Failure(f"{count_of(len(refusals), 'place')} could not be read; the first: {refusals[0]}")


def _tell(counts: Row, largest: list[Row], *, as_json: bool) -> None:
    if as_json:
        typer.echo(to_json({**counts, "largest": largest}))
        return
    told = ", ".join(count_of(counts[f"{name}s"], name) for name in ("goal", "episode", "key", "step"))
    print_line(f"{told}, {pretty_size(counts['size'])}" if on_terminal() else f"{told}, {counts['size']} bytes")
    print_rows(_KEYS, largest, as_json=False)
