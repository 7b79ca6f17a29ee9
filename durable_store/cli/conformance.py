"""`durable-store conformance`: has a backend sit the exam, for whoever has no tests of their own for it.

pytest runs it, so that a broken promise looks the same here as there; of the user's directory it sees nothing. The
core imports no part of the suite: pytest loads it by its name, while its asserts are rewritten.
"""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from durable_store.cli.exam import show_progress, tell
from durable_store.cli.output import printable, say, to_json
from durable_store.errors import StoreUnavailable

if TYPE_CHECKING:
    import pytest

    from durable_store_conformance.command import Sitting, Watcher

_SUITE = "durable_store_conformance"
_OF_ITS_OWN = ("--noconftest", "--import-mode=importlib", "-pno:cacheprovider", "-pno:terminal")
_GRACE = 5  # seconds for the interpreter to end by itself
_MISUSED, _NOT_TOLD, _INTERRUPTED = 2, 3, 130


def conformance(
    url: Annotated[str, typer.Argument(metavar="URL", help="The store; {} in it stands for a fresh name.")],
    *,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PREFIX", help="Ask only these: DS-SAVE, DS-SAVE-01. Can be repeated."),
    ] = None,
    json_file: Annotated[
        typer.FileTextWrite | None,
        typer.Option(
            "--json", metavar="FILE", lazy=False, encoding="utf-8", help="Write all results as JSON; - is stdout."
        ),
    ] = None,
) -> None:
    """Examine a backend: does it keep each promise?

    Each case of a clause gets a fresh store: its name takes the place of {} in the URL. Without {} it is one more
    segment of the path (s3://bucket/prefix/NAME), or stands before the suffix of the last one
    (sqlite:///runs-NAME.db). Other processes open the same URL, race for it and are killed. Whatever was made is
    removed, nothing else is touched.

    The grade is `full` if every clause held, `base` if all those held without which not even one agent is safe that
    is killed and goes on, else `none`. Exit status: 0 all that was asked held, 1 a clause failed, 2 misused, 3 it
    could not be told or what was made could not be removed, 130 stopped by Ctrl-C.
    """
    door = _Door(url, only or [])
    problem = _sit(door)
    if door.sitting is None:
        _leave_nobody_behind(_NOT_TOLD)
        raise _said(problem, _NOT_TOLD)
    sitting, report = door.sitting, door.sitting.report
    status = _INTERRUPTED if sitting.interrupted else _NOT_TOLD if problem else report.status
    if status == 0 and sitting.left:
        status = _NOT_TOLD
    if json_file:
        about: dict[str, object] = {
            "url": url,
            "backend": sitting.backend or None,
            "version": version("durable-store"),
            "exit_status": status,
            "problem": problem or None,
        }
        json_file.write(to_json(report.as_json(about), indent=2) + "\n")
    if sitting.backend and (json_file is None or json_file.fileno() != sys.stdout.fileno()):
        tell(report, sitting.backend)
    if sitting.backend and sitting.left:
        _say(f"{len(sitting.left)} stores could not be removed; the first: {sitting.left[0]}")
    _leave_nobody_behind(status)
    if sitting.interrupted:
        raise KeyboardInterrupt
    raise _said(problem, status)


class _Door:
    """What pytest is given: where it comes in, the exam begins.

    Attributes:
        sitting: the exam, once it has begun.
    """

    def __init__(self, url: str, only: Sequence[str]) -> None:
        self._url = url
        self._only = only
        self.watcher: Watcher | None = None
        self.sitting: Sitting | None = None

    def pytest_cmdline_main(self, config: "pytest.Config") -> None:
        """Whatever it raises gets out of pytest as it is."""
        suite = import_module(f"{_SUITE}.command")
        sitting: Sitting = suite.Sitting(config, self._url, self._only, self.watcher)
        self.sitting = sitting
        sitting.try_out()
        config.pluginmanager.register(sitting)


def _sit(door: _Door) -> str:
    """Runs the exam; returns why it could not be run to its end, or nothing."""
    try:
        import pytest  # noqa: PLC0415 - an optional library is imported where it is used
    except ModuleNotFoundError:
        raise _said("the exam needs pytest: pip install 'durable-store[conformance]'", _MISUSED) from None
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    with tempfile.TemporaryDirectory() as root, _own_stderr() as stderr, show_progress(stderr) as door.watcher:
        settings = Path(root, "pytest.ini")
        settings.touch()
        where = (f"-c{settings}", f"--rootdir={root}", f"-p{_SUITE}.plugin", "--pyargs", f"{_SUITE}.command")
        try:
            ended = pytest.main([*_OF_ITS_OWN, *where], plugins=[door])
        except StoreUnavailable as err:
            return f"the exam cannot begin: {err}"
    if door.sitting and (door.sitting.interrupted or door.sitting.problem):
        return door.sitting.problem
    well = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    return "" if ended in well else f"pytest broke down: {pytest.ExitCode(ended).name}"


@contextmanager
def _own_stderr() -> Generator[IO[str]]:
    """A way to stderr that stays open while pytest captures all that is written to 1 and 2."""
    with open(os.dup(2), "w", encoding="utf-8", errors="backslashreplace") as stderr:  # noqa: PTH123 - no path
        yield stderr


def _leave_nobody_behind(status: int) -> None:
    """Sees to it that threads in which a backend hangs do not keep this process from ending with its status."""

    def end() -> None:
        threading.main_thread().join()
        time.sleep(_GRACE)
        os._exit(status)

    sys.stdout.flush()
    threading.Thread(target=end, daemon=True).start()


def _said(problem: str, status: int) -> typer.Exit:
    if problem:
        _say(problem)
    return typer.Exit(status)


def _say(line: str) -> None:
    say(f"durable-store: {printable(line)}")
