"""A bar on stderr while something long goes on: how much is done, how fast, and when it will end."""

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from durable_store.backend import Backend
from durable_store.cli.output import error_console, pretty_size
from durable_store.errors import count_of
from durable_store.key import CheckpointKey
from durable_store.operations.ahead import AT_ONCE, ahead, threads_for
from durable_store.operations.places import listed

_OFTEN = 0.1  # seconds between two changes of the bar


@contextmanager
def progress(title: str, total: Callable[[], int], noun: str = "record") -> Generator[Callable[[int], None]]:
    """Something to be told of each thing that is done, and its bytes; on a terminal a bar, gone at the end.

    Args:
        title: what is being done.
        total: counts the things; called only where there is a bar to show.
        noun: what they are.
    """
    screen = error_console()
    if not screen.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn(title),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[told]}", markup=False),
    )
    with Progress(*columns, console=screen, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task(title, total=None, told="counting")
        bar.update(task, total=total(), told="")
        started = shown = time.monotonic()
        count = size = 0

        def seen(more: int) -> None:
            nonlocal count, size, shown
            count, size = count + 1, size + more
            if (now := time.monotonic()) - shown >= _OFTEN:
                shown = now
                told = f"{count_of(count, noun)}, {count / (now - started):,.0f}/s"
                bar.update(task, completed=count, told=f"{told}, {pretty_size(size)}" if size else told)

        yield seen


def records_in(backend: Backend, keys: Iterable[CheckpointKey]) -> Callable[[], int]:
    """Counts the records of these keys."""

    def count() -> int:
        with threads_for("count") as threads:
            return sum(len(each.steps) for each in ahead(threads, partial(listed, backend), keys, AT_ONCE))

    return count
