"""What a store holds, goal by goal: `episodes`, `stats`."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated

import typer

from durable_store.cli.look import STATUS_STYLES, Url, existing
from durable_store.cli.operate import progress
from durable_store.cli.output import (
    Column,
    Failure,
    Row,
    count_of,
    key_fields,
    on_terminal,
    pretty_size,
    pretty_time,
    print_line,
    print_rows,
    time_field,
    to_json,
)
from durable_store.key import goal_from_text
from durable_store.operations.ahead import AT_ONCE, ahead
from durable_store.operations.places import keys_of

if TYPE_CHECKING:
    from durable_store.key import CheckpointKey

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
    """List the episodes of a goal, newest first: how each stands, since when, and what came of it."""
    name = goal_from_text(goal)
    with existing(url) as store:
        found = store.episodes(name)
    if not found:
        raise Failure(f"goal {name!r} has no episodes: see `durable-store ls`")
    rows: list[Row] = [
        {
            "episode_id": each.id,
            "status": each.status,
            "root": each.root,
            "started": time_field(each.started),
            "ended": time_field(each.ended),
            "result": each.result,
        }
        for each in found
    ]
    print_rows(_EPISODES, rows, as_json=as_json)


def stats(
    url: Url,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count what is in a store: goals, episodes, keys, steps and their bytes, and the ten largest keys.

    It reads all of it, since the bytes of a record are known no other way. The store's own records are counted with
    the steps and bytes, and not among the keys.
    """
    sizes: Counter[CheckpointKey] = Counter()
    steps: Counter[CheckpointKey] = Counter()
    with (
        existing(url) as store,
        progress(store, None, "stats") as seen,
        ThreadPoolExecutor(AT_ONCE, thread_name_prefix="durable-store-stats") as threads,
    ):
        backend = store.backend
        places = ((key, step) for key in keys_of(backend, None) for step in backend.steps(key))
        for key, size in ahead(threads, lambda place: (place[0], len(backend.load(*place) or b"")), places, AT_ONCE):
            seen(size)
            steps[key] += 1
            sizes[key] += size
    keys = [key for key in steps if not key.checkpoint_id.startswith("@")]
    own = set(keys)
    counts: Row = {
        "goals": len({key.goal_id for key in keys}),
        "episodes": len({(key.goal_id, key.episode_id) for key in keys}),
        "keys": len(keys),
        "steps": steps.total(),
        "size": sizes.total(),
    }
    largest: list[Row] = [
        {**key_fields(key), "steps": steps[key], "size": size} for key, size in sizes.most_common() if key in own
    ][:_LARGEST]
    if as_json:
        typer.echo(to_json({**counts, "largest": largest}))
        return
    told = ", ".join(count_of(counts[f"{name}s"], name) for name in ("goal", "episode", "key", "step"))
    print_line(f"{told}, {pretty_size(counts['size'])}" if on_terminal() else f"{told}, {counts['size']} bytes")
    print_rows(_KEYS, largest, as_json=False)
