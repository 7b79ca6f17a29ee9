"""Changing what is in a store: `rewind`, `fork`, `prune`, `rm`."""

import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeVar

import typer

from durable_store import episode as episodes
from durable_store.cli.look import Key, Url, existing, goals_there
from durable_store.cli.output import Failure, key_fields, print_line, ranges, to_json
from durable_store.cli.progress import progress
from durable_store.errors import (
    CheckpointConflict,
    CheckpointDamaged,
    CheckpointNotFound,
    InvalidArgument,
    StoreUnavailable,
    count_of,
)
from durable_store.key import CheckpointKey, goal_from_text
from durable_store.operations.ahead import AT_ONCE, ahead, threads_for
from durable_store.operations.places import is_away
from durable_store.reading import prunable
from durable_store.record import random_tag, writer_name
from durable_store.run import MAX_KEEP
from durable_store.store import Store

T = TypeVar("T")
R = TypeVar("R")

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

_AGE = re.compile(r"([1-9][0-9]*)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def rewind(
    url: Url,
    key: Key,
    *,
    to: Annotated[int, typer.Option("--to", metavar="N", help="The step to go back to.", min=0)],
    as_json: Json = False,
) -> None:
    """Commit the state of an earlier step as the next one, from which the next process resumes.

    History stays as it is: the steps in between are not removed. A process that is at work on the key is refused at
    its next commit.
    """
    wanted = CheckpointKey.parse(key)
    with existing(url) as store:
        run = store.resume(wanted.goal_id, wanted.checkpoint_id, episode_id=wanted.episode_id, keep=MAX_KEEP)
        if not run.resumed:
            raise CheckpointNotFound(f"{wanted} has no checkpoints to rewind: see `durable-store ls`")
        step = run.rewind(to)
    if as_json:
        typer.echo(to_json({**key_fields(wanted), "to": to, "step": step}))
    else:
        print_line(f"{wanted} step {step} is step {to} again")


def fork(
    url: Url,
    key: Key,
    to: Annotated[str, typer.Argument(metavar="TO", help="The key that begins, which has nothing yet.")],
    *,
    step: Annotated[int | None, typer.Option("--step", metavar="N", help="The step; by default the newest.")] = None,
    as_json: Json = False,
) -> None:
    """Make the state of one step the first of another key.

    The episode of TO is under way, or the next number of its goal: then it is started, for TO's checkpoint id. If it is
    killed on the way, run it again: TO is there, or begins.
    """
    source, target = CheckpointKey.parse(key), CheckpointKey.parse(to)
    with existing(url) as store:
        checkpoint = store.latest(source) if step is None else store.load(source, step)
        if checkpoint is None:
            raise CheckpointNotFound(f"{source} has no checkpoints to fork from: see `durable-store ls`")
        if target.episode_id == episodes.newest_number(store.backend, target.goal_id) + 1:
            _start_for(store, target)
        store.fork(source, target, step=checkpoint.step)
    if as_json:
        typer.echo(to_json({**key_fields(target), "of": str(source), "step": checkpoint.step}))
    else:
        print_line(f"{target} step 0 is {source} step {checkpoint.step}")


def _start_for(store: Store, target: CheckpointKey) -> None:
    """Starts the episode of a fork, that one or none."""
    if store.latest(target, skip_damaged=True) is not None:
        raise CheckpointConflict(f"{target} is not empty: a fork begins a key")
    writer = writer_name(random_tag())
    new = episodes.registration(target.goal_id, target.episode_id, target.checkpoint_id, writer)
    if not episodes.claim(store.backend, target.goal_id, new):
        raise CheckpointConflict(f"another process has just started episode {target.episode_id}: fork into another one")


def prune(
    url: Url,
    *,
    keep: Annotated[int, typer.Option("--keep", metavar="N", min=1, help="So many of each key's newest steps stay.")],
    goal: Annotated[str | None, typer.Option("--goal", metavar="GOAL", help="Only the keys of this goal.")] = None,
    finished: Annotated[bool, typer.Option("--finished", help="Only episodes that have finished or failed.")] = False,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="Only keys saved last so long ago: 12h, 7d, 2w.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove all but the newest steps of each key.

    What a kept step builds on stays, and so does the newest intact one. Fences go: stop the runs of the keys first, or
    name --finished. A key that cannot be read is left as it is, and told.
    """
    before = None if older_than is None else _ago(older_than)
    problems: list[str] = []
    with existing(url) as store:
        names = goals_there(store, None if goal is None else [goal])
        keys = list(store.keys(names[0] if names else None))

        def look_at(key: CheckpointKey) -> _Steps:
            if not _is_wanted(store, key, finished=finished, before=before):
                return _Steps(key, [])
            return _Steps(key, prunable(store.backend, key, keep))

        found: list[_Steps] = []
        with progress("look", lambda: len(keys), "key") as seen, threads_for("prune") as threads:
            for each in _each(store, threads, look_at, keys, problems):
                seen(0)
                if each and each.steps:
                    found.append(each)
        if found and not dry_run:
            unread = f" ({count_of(len(problems), 'key')} cannot be read, and stay)" if problems else ""
            _ask(f"remove {_counted(found)}{unread}", yes=yes)
            with (
                _telling(problems, "pruned", as_json=as_json) as removed,
                progress("prune", lambda: len(found), "key") as seen,
                threads_for("prune") as threads,
            ):

                def remove(each: _Steps) -> None:
                    # The newest first: cut off, it leaves nothing without what that needs.
                    _remove(store, removed, each.key, each.steps[::-1])

                for _ in _each(store, threads, remove, found, problems):
                    seen(0)
        else:
            _tell(found, as_json=as_json, dry_run=dry_run)
    _fail_for(problems, "pruned")


def rm(
    url: Url,
    goal: Annotated[str, typer.Argument(metavar="GOAL", help="The goal to remove.")],
    *,
    episode: Annotated[int | None, typer.Option("--episode", metavar="N", help="Only this episode of it.")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove all checkpoints of a goal, or of one of its episodes.

    The numbers of its episodes stay taken. Stop its runs first. Interrupted, it never shows an older step as the
    newest: run it again. A key that the storage does not remove is told, and the others are removed; where it does not
    let look at one of them, or mark an episode as deleted, nothing is.
    """
    name = goal_from_text(goal)
    problems: list[str] = []
    with existing(url) as store:
        backend = store.backend
        there = list(episodes.removable(backend, name, episode))
        if not there:
            of_episode = "" if episode is None else f" in episode {episode}"
            raise Failure(f"goal {name!r} has no checkpoints{of_episode}: see `durable-store ls`")
        with (
            progress("look", lambda: len(there), "key") as seen,
            threads_for("rm") as threads,
        ):
            found: list[_Steps] = []
            for each in ahead(threads, lambda key: _Steps(key, backend.steps(key)[::-1]), there, AT_ONCE):
                found.append(each)
                seen(0)
        if dry_run:
            _tell(found, as_json=as_json, dry_run=True)
            return
        _ask(f"remove {_counted(found)}, for good", yes=yes)
        with _telling(problems, "removed", as_json=as_json) as removed, threads_for("rm") as threads:
            _remove_all(store, threads, name, episode, removed, problems)


@dataclass(frozen=True, slots=True)
class _Steps:
    key: CheckpointKey
    steps: list[int]


def _counted(found: list[_Steps]) -> str:
    return f"{count_of(sum(len(each.steps) for each in found), 'step')} of {count_of(len(found), 'key')}"


def _each(
    store: Store,
    threads: ThreadPoolExecutor,
    function: Callable[[T], R],
    things: Iterable[T],
    problems: list[str],
) -> Iterator[R | None]:
    """What the function makes of each; what is wrong with one is added to `problems`."""

    def attempt(thing: T) -> R | None:
        try:
            return function(thing)
        except CheckpointDamaged as err:
            problems.append(str(err))
        except StoreUnavailable as err:
            if is_away(store.backend):
                raise
            problems.append(str(err))
        return None

    return ahead(threads, attempt, things, AT_ONCE)


def _is_wanted(store: Store, key: CheckpointKey, *, finished: bool, before: datetime | None) -> bool:
    if finished:
        episode = episodes.read(store.backend, key.goal_id, key.episode_id)
        if episode is None or episode.status not in ("finished", "failed"):
            return False
    if before is None:
        return True
    newest = store.latest(key)
    return newest is not None and newest.saved_at < before


def _remove_all(
    store: Store,
    threads: ThreadPoolExecutor,
    goal: str,
    episode: int | None,
    removed: list[_Steps],
    problems: list[str],
) -> None:
    """Removes all keys of a goal, or of one of its episodes, as `Store.delete` does, but many at the same time.

    All tombstones come first, so that nobody resumes into what is being removed; of each key the oldest step does.
    """
    backend, writer = store.backend, writer_name(random_tag())
    numbers = episodes.numbers(backend, goal, episode)
    with progress("mark", lambda: len(numbers), "episode") as seen:
        for _ in ahead(threads, lambda number: episodes.delete(backend, goal, number, writer), numbers, AT_ONCE):
            seen(0)
    keys = list(episodes.removable(backend, goal, episode))

    def remove(key: CheckpointKey) -> None:
        _remove(store, removed, key, backend.steps(key)[::-1])

    with progress("rm", lambda: len(keys), "key") as seen:
        for _ in _each(store, threads, remove, keys, problems):
            seen(0)


def _remove(store: Store, removed: list[_Steps], key: CheckpointKey, steps: list[int]) -> None:
    """Removes the steps, in this order, and notes those that are gone, also when the storage refuses some."""
    try:
        store.backend.prune(key, steps)
    except StoreUnavailable:
        left = set(store.backend.steps(key))  # when it refuses this too, nobody knows, and nothing is noted
        _note(removed, key, [step for step in steps if step not in left])
        raise
    _note(removed, key, steps)


def _note(removed: list[_Steps], key: CheckpointKey, gone: list[int]) -> None:
    if gone:
        removed.append(_Steps(key, sorted(gone)))


def _ago(text: str) -> datetime:
    match = _AGE.fullmatch(text)
    if not match:
        raise InvalidArgument(f"an age is a number and a unit, s m h d or w, as in 7d: not {text!r}")
    try:
        return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        raise InvalidArgument(f"{text!r} is longer ago than there are dates") from None


def _ask(what: str, *, yes: bool) -> None:
    """Goes on when a person says so, or the command line has."""
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():  # pyright: ignore[reportUnnecessaryComparison]
        raise InvalidArgument(f"to {what} say so: -y, as there is no terminal to ask on (or --dry-run)")
    try:
        agreed = typer.confirm(f"{what}?", err=True)
    except typer.Abort:  # Ctrl-C, or Ctrl-D
        typer.echo(err=True)
        raise KeyboardInterrupt from None
    if not agreed:
        raise Failure("nothing was removed")


@contextmanager
def _telling(problems: list[str], done: str, *, as_json: bool) -> Generator[list[_Steps]]:
    """A list for what has been removed, which is told however that ends; then it fails for what could not be done."""
    removed: list[_Steps] = []
    try:
        yield removed
        _fail_for(problems, done)  # here already, so that it is also told where the rest cannot be
    finally:
        _tell(removed, as_json=as_json, dry_run=False)


def _fail_for(problems: list[str], done: str) -> None:
    if problems:
        raise Failure(f"{count_of(len(problems), 'key')} could not be {done}; the first: {problems[0]}")


def _tell(found: list[_Steps], *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        rows = [{**key_fields(each.key), "steps": each.steps} for each in found]
        typer.echo(to_json({"removed": not dry_run, "keys": rows}))
        return
    if dry_run:
        for each in found:
            print_line(f"{each.key}\t{ranges(each.steps[::-1])}")
    print_line(f"{'would remove' if dry_run else 'removed'} {_counted(found)}")
