"""How an exam is shown: its progress on stderr, and what it came to on stdout."""

import os
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from durable_store.cli.output import console, on_terminal, print_folded, printable

if TYPE_CHECKING:
    from durable_store_conformance.command import Watcher
    from durable_store_conformance.exam import Case
    from durable_store_conformance.report import CaseResult, ClauseResult, Report

_STYLES = {"held": "green", "failed": "bold red", "not evaluable": "yellow", "not asked": "dim"}
_GRADE_STYLES = {"full": "bold green", "base": "bold yellow", "none": "bold red", None: "bold"}
_IN_A_PIPE = 120  # columns
_LONGEST_NAME = 80
_GAP = 2  # blanks between two columns
_MOST_CASES = 3  # of a clause, that are told in full: the others went wrong as these did
_MOST_LINES = 8  # of what went wrong in a case


class _Bar:
    """On a terminal: how many cases are done, how many of them failed, and which clause it is now."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("getting ready", total=None, failed="")
        self._failed = 0

    def begins(self, cases: Sequence["Case"]) -> None:
        self._bar.update(self._task, total=len(cases))

    def starts(self, case: "Case") -> None:
        self._bar.update(self._task, description=f"{case.clause.id} {_in_words(case.clause.name)}")

    def ends(self, result: "CaseResult") -> None:
        self._failed += result.result != "held"
        failed = f"{self._failed} failed" if self._failed else ""
        self._bar.update(self._task, advance=1, failed=failed)


class _Lines:
    """In a pipe: a line for each group as soon as it is done."""

    def __init__(self, stderr: IO[str]) -> None:
        self._stderr = stderr
        self._left = Counter[str]()
        self._results = Counter[str]()

    def begins(self, cases: Sequence["Case"]) -> None:
        self._left.update(case.clause.group.name for case in cases)

    def starts(self, case: "Case") -> None:
        self._group = case.clause.group.name

    def ends(self, result: "CaseResult") -> None:
        self._results[result.result] += 1
        self._left[self._group] -= 1
        if not self._left[self._group]:
            self._stderr.write(f"{self._group}: {_counted(self._results)} of {self._results.total()} cases\n")
            self._stderr.flush()
            self._results.clear()


@contextmanager
def show_progress(stderr: IO[str]) -> Generator["Watcher"]:
    """Shows what it is told; on a terminal nothing of it is left when the exam is over."""
    if not stderr.isatty():
        yield _Lines(stderr)
        return
    # The width, and no redirection: while pytest captures what is written, rich cannot find the terminal by itself.
    screen = Console(file=stderr, width=os.get_terminal_size(stderr.fileno()).columns, emoji=False, highlight=False)
    columns = (
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[failed]}", style="bold red", markup=False),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    with Progress(
        *columns, console=screen, transient=True, expand=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        yield _Bar(bar)


def tell(report: "Report", backend: str) -> None:
    """Prints a table for each group that was asked, what went wrong, the grade, and what all that did not show."""
    screen = console(None if on_terminal() else _IN_A_PIPE)
    asked = [each for each in report.clauses if each.result != "not asked"]
    screen.print(Text(f"The exam of {printable(backend)}"), soft_wrap=True)
    for group, results in groupby(asked, key=lambda each: each.clause.group):
        of_group = list(results)
        screen.print(Text.assemble((f"\n{group.name}", "bold"), f"  {group.about}"))
        screen.print(_table(of_group, screen.width))
        for each in of_group:
            _tell_what_went_wrong(screen, each)
    seconds = sum(each.seconds for each in asked)
    screen.print(f"\n{_counted(report.counts)} of {len(report.clauses)} clauses, in {seconds:.0f} s")
    print_folded(screen, f"{report.verdict[0].upper()}{report.verdict[1:]}", style=_GRADE_STYLES[report.grade])
    for remark in report.remarks:
        print_folded(screen, remark)
    screen.print("\nWhat this did not show:")
    for line in report.not_shown:
        print_folded(screen, line, indent="  - ")


def _table(results: list["ClauseResult"], width: int) -> Table:
    widths = len("  DS-EPISODE-00"), max(map(len, _STYLES)), len("1000.0 s")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, _GAP, 0, 0))
    table.add_column(width=widths[0])
    table.add_column(width=min(width - sum(widths) - 3 * _GAP, _LONGEST_NAME))
    table.add_column(width=widths[1])
    table.add_column(width=widths[2], justify="right")
    for each in results:
        cases = f" ({len(each.cases)} cases)" if len(each.cases) > 1 else ""
        table.add_row(
            f"  {each.clause.id}",
            f"{_in_words(each.clause.name)}{cases}",
            Text(each.result, style=_STYLES[each.result]),
            f"{each.seconds:.1f} s",
        )
    return table


def _tell_what_went_wrong(screen: Console, each: "ClauseResult") -> None:
    wrong = [case for case in each.cases if case.result in {"failed", "not evaluable"}]
    if not wrong:
        return
    screen.print()
    print_folded(screen, f"{each.clause.id} {each.result}. The promise: {each.clause.promise}", indent="    ")
    for case in wrong[:_MOST_CASES]:
        lines = case.message.splitlines()
        if len(lines) > _MOST_LINES:
            lines[_MOST_LINES // 2 : -_MOST_LINES // 2] = ["…"]
        if case.case:
            print_folded(screen, f"case {case.case}:", indent="    ", style="bold")
        for line in lines:
            print_folded(screen, line, indent="      ")
    if wrong[_MOST_CASES:]:
        more = ", ".join(case.case for case in wrong[_MOST_CASES:])
        print_folded(screen, f"and so {len(wrong) - _MOST_CASES} more: {more}", indent="    ")


def _counted(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count} {result}" for result, count in counts.items() if count)


def _in_words(name: str) -> str:
    return name.replace("_", " ")
