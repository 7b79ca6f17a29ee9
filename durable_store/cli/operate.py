"""Whole stores in an operator's hands: `copy`, `verify`."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from durable_store.cli.look import Url, existing, goals_there
from durable_store.cli.output import (
    Failure,
    Row,
    console,
    key_fields,
    on_terminal,
    pretty_size,
    print_folded,
    print_line,
    printable,
    say,
    to_json,
)
from durable_store.cli.progress import progress, records_in
from durable_store.errors import InvalidArgument, count_of
from durable_store.operations import Copied, Finding, Tally
from durable_store.operations import copy as copy_store
from durable_store.operations import verify as verify_store
from durable_store.operations.places import keys_of
from durable_store.store import open_store

Goals = Annotated[
    list[str] | None, typer.Option("--goal", metavar="GOAL", help="Only this goal; may be given more than once.")
]


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The store to copy: sqlite:///runs.db, …")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The store to copy into; it need not be there yet.")],
    *,
    goal: Goals = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read each record back, and compare all of it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: counts, and the problems.")] = False,
) -> None:
    """Copy a store into another one, of any kind, with episodes, fences and deltas.

    Interrupted, it goes on where it was when it is run again: what is there is compared, not copied. Nothing in DST is
    ever replaced. Stop the runs first, and resume none in DST before the copy has ended. The exit status is 1 when
    something in DST is another record, or a record is damaged: these are listed.
    """
    problems: list[Row] = []
    tally = Tally()
    with existing(source) as here, open_store(target) as there:
        if repr(here.backend) == repr(there.backend):
            raise InvalidArgument("SRC and DST are the same store: name another one to copy into")
        goals = goals_there(here, goal)
        try:
            with progress("copy", records_in(here.backend, keys_of(here.backend, goals))) as seen:

                def note(copied: Copied) -> None:
                    tally.count(copied)
                    seen(copied.size if copied.outcome == "copied" else 0)
                    if copied.problem:
                        row = {**key_fields(copied.key), "step": copied.step, "outcome": copied.outcome}
                        problems.append({**row, "problem": copied.problem})

                copy_store(here, there, goals=goals, verify=verify, report=note)
        finally:  # however it has ended
            _tell_copied(tally, problems, as_json=as_json)


def verify(
    url: Url,
    *,
    goal: Goals = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array, an object for each finding.")] = False,
) -> None:
    """Read all of a store, and tell what is wrong in it, what that means and what can be done.

    It changes nothing: a damaged record keeps its step, which an older writer could take otherwise. In a pipe each
    finding is a line: kind, place, what is wrong, advice. The exit status is 1 when something is damaged; what is only
    odd is told and fails nothing. In a store on files, foreign files and open permissions are odd too; they are looked
    for when all goals are.
    """
    findings: list[Finding] = []
    with existing(url) as store:
        goals = goals_there(store, goal)
        try:
            with progress("verify", records_in(store.backend, keys_of(store.backend, goals))) as seen:
                verified = verify_store(store, goals=goals, report=findings.append, progress=lambda _, size: seen(size))
        finally:  # however it has ended
            _tell_findings(findings, as_json=as_json)
    read = f"{count_of(verified.records, 'record')} read ({pretty_size(verified.size)})"
    if verified.damaged:
        raise Failure(f"{read}: {verified.damaged} damaged, {verified.noted} odd")
    (say if as_json else typer.echo)(f"{read}: {'nothing is wrong' if not findings else f'{verified.noted} odd'}")


def _tell_copied(tally: Tally, problems: list[Row], *, as_json: bool) -> None:
    if as_json:
        typer.echo(to_json({**asdict(tally), "problems": problems}))
        return
    for row in problems:
        print_line(f"{row['outcome']}\t{row['problem']}")
    gone = f", {tally.gone} removed meanwhile" if tally.gone else ""
    copied = f"{count_of(tally.copied, 'record')} copied ({pretty_size(tally.size)})"
    print_line(f"{copied}, {tally.there} there before{gone}")


def _tell_findings(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        rows = [{**asdict(each), "is_damage": each.is_damage, "advice": each.advice} for each in findings]
        typer.echo(to_json(rows))
        return
    for each in findings:
        _tell(each)


def _tell(finding: Finding) -> None:
    if not on_terminal():
        print_line(f"{finding.kind}\t{finding.place}\t{finding.what}\t{finding.advice}")
        return
    screen = console()
    style = "bold red" if finding.is_damage else "yellow"
    screen.print(Text.assemble((finding.kind, style), f"  {printable(finding.place)}"), soft_wrap=True)
    for line in (finding.what, finding.advice):
        print_folded(screen, line, indent="  ")
