"""docs/SCORECARD.md, from what was seen."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from benchmarks.scorecard.scenarios import SCENARIOS
from benchmarks.scorecard.systems import LEFT_OUT, ORDER, SYSTEMS, System
from durable_store_conformance.exam import CLAUSES

NAMES = {clause.id: clause for clause in CLAUSES}
SIGNS = {"holds": "✓", "fails": "✗", "not offered": "·", "not evaluable": "?"}

HEAD = """\
# A scorecard of others

What checkpoint stores of other projects answer to the clauses of durable-store's conformance suite that make sense for
them. Written by `python -m benchmarks.scorecard`; do not edit.

These systems were made for other purposes, and each does a good deal that is not asked here. A clause **fails** only
where a system's documentation promises what is asked, or where its users plainly rely on it: that the process after a
killed one finds the last state, that two threads do not mix, that «nothing is there» is true. Everything else is **not
offered**: write-once steps, fencing, digests, the removal of single steps. That is a difference, and no fault.
"""

HOW = """\
## How they were asked

* Small adapters (`benchmarks/scorecard/adapters.py`) make the verbs of a backend out of each system's own calls, and
  the suite's clauses run over them as they stand. Nothing is patched, and what is configured is shown there.
* Where saving replaces what is there, the adapter looks first and saves if nothing is there: clauses about other things
  save a step twice in passing. The clauses about just that are not asked.
* A number with a letter, as DS-KILL-02a, is the clause in other words (`benchmarks/scorecard/scenarios.py`), mostly
  since the suite's own goes on to remove single steps, which none of the systems does.
* An SQLite connection waits 60 s for a lock, where `sqlite3` would wait 5: the machine should not be what is measured.
* Clauses whose answer hangs on chance are examined three or eight times, and hold if they hold each time.
* A failure was looked at without the adapter too, with a few lines of the system's own API, or ends in the same error
  as one that was, unless its line says that it was not.
* `python -m benchmarks.scorecard --only SYSTEM CLAUSE` does again what a line tells, and shows the errors whole, also
  for a clause that is not offered. The versions are pinned in `benchmarks/scorecard/requirements.txt`.
* A whole run takes about ten minutes on two busy cores.
"""

NOT_SEEN = """\
## What this could not see

* Whether a record survives a power cut: SIGKILL takes the process, and not what the system still holds in memory.
* The object stores that ObjectStorageSaver also serves (S3, GCS): it was examined on a local directory only, where
  writes are files. On S3 a PUT is all or nothing, so what is said of half-written files does not carry over.
* The asynchronous savers, and the graphs and applications on top: the savers were called directly.
* Other platforms, other Python versions, other versions of the systems.
* Rare events: a race or a kill that went well some dozen times may go wrong once in a million.
"""

NOT_ASKED = """\
These are about what durable-store puts on top of a backend: states as JSON, episodes, runs, retention, fences, digests.
Run over an adapter they would examine durable-store.
"""


@dataclass(frozen=True)
class Line:
    """A clause, and what it came to."""

    clause: str
    result: str
    seen: str


def asked(clause: str) -> str:
    """What a clause asks, in a sentence."""
    if clause in SCENARIOS:
        return SCENARIOS[clause].asked
    name = NAMES[clause].name.replace("_", " ")
    return f"{name[0].upper()}{name[1:]}."


def line_of(system: System, clause: str, cases: list[list[str]] | None) -> Line:
    """A clause's line; `cases` are what `examine` found, each a name, what it came to and what was seen."""
    outside = "not offered" if clause in system.not_offered else "not evaluable"
    reason = system.not_offered.get(clause) or system.not_evaluable.get(clause)
    if reason:
        shown = [seen for _, result, seen in cases or [] if result == "held" and seen]
        return Line(clause, outside, " ".join([reason, *shown]))
    if not cases:
        return Line(clause, "not evaluable", "It was not asked.")
    counted = Counter(result for _, result, _ in cases)
    if counted["failed"]:
        name, _, seen = next(case for case in cases if case[1] == "failed")
        known = system.failures.get(clause)
        looked_at = known and all(known.known_by in seen for _, result, seen in cases if result == "failed")
        words = known.words if known and looked_at else "Not looked at without the adapter yet."
        often = f"Seen in {counted['failed']} of {len(cases)}:"
        return Line(clause, "fails", " ".join([words, often, *filter(None, [name and f"{name}:"]), _code(seen)]))
    if counted["not offered"]:
        return Line(clause, "not offered", f"It held until this was asked: {cases[-1][2]}.")
    often = f"In {len(cases)} of {len(cases)} examinations." if len(cases) > 1 else "As asked."
    return Line(clause, "holds", " ".join(filter(None, [often, system.remarks.get(clause, "")])))


def _code(text: str) -> str:
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def document(seen: Mapping[str, Mapping[str, list[list[str]]]], about: Mapping[str, Any], today: date) -> str:
    """The whole page."""
    lines = {
        system.name: [line_of(system, clause, seen[system.name].get(clause)) for clause in ORDER] for system in SYSTEMS
    }
    parts = [
        HEAD,
        f"Examined on {today.isoformat()}, on Linux, with Python {about['python']} and its SQLite {about['sqlite']}:\n",
        *_versions(about["versions"]),
        "\n## In short\n",
        *_counts(lines),
        "",
        *_grid(lines),
        "",
        HOW,
        NOT_SEEN,
    ]
    for system in SYSTEMS:
        parts += _section(system, lines[system.name], about["versions"][system.package])
    parts += _left_out()
    return "\n".join(parts).rstrip() + "\n"


def _versions(versions: Mapping[str, str]) -> list[str]:
    return [f"* {name} {version}" for name, version in versions.items()]


def _counts(lines: Mapping[str, list[Line]]) -> list[str]:
    rows = ["| system | holds | fails | not offered | not evaluable |", "|---|---|---|---|---|"]
    for system in SYSTEMS:
        counted = Counter(line.result for line in lines[system.name])
        rows.append(f"| {system.title} (`{system.name}`) | {' | '.join(str(counted[result]) for result in SIGNS)} |")
    return rows


def _grid(lines: Mapping[str, list[Line]]) -> list[str]:
    """Clause by system; clauses that nobody offers are left to the sections."""
    rows = [
        f"{', '.join(f'{sign} {result}' for result, sign in SIGNS.items())}. What none of them offers is further down.",
        "",
        f"| clause | what is asked | {' | '.join(system.name for system in SYSTEMS)} |",
        "|---|---|" + ":-:|" * len(SYSTEMS),
    ]
    for number, clause in enumerate(ORDER):
        results = [lines[system.name][number].result for system in SYSTEMS]
        if {"holds", "fails"} & set(results):
            rows.append(f"| {clause} | {_cell(asked(clause))} | {' | '.join(SIGNS[result] for result in results)} |")
    return rows


def _section(system: System, lines: list[Line], version: str) -> list[str]:
    parts = [f"## {system.title}\n", f"`{system.package}` {version}. What it says of itself:\n"]
    parts += [f"* «{quote.text}» ({quote.source})" for quote in system.promises]
    parts += ["", system.mapped, ""]
    for result, heading in (("fails", "### Fails"), ("holds", "### Holds")):
        found = [line for line in lines if line.result == result]
        if found:
            parts += [heading, "", *_table(system, found), ""]
    return [*parts, "### Not offered, not evaluable", "", *_grouped(system, lines), ""]


def _table(system: System, lines: list[Line]) -> list[str]:
    rows = [
        "| clause | what is asked | what was seen | again: `python -m benchmarks.scorecard` … |",
        "|---|---|---|---|",
    ]
    return rows + [
        f"| {line.clause} | {_cell(asked(line.clause))} | {_cell(line.seen)} | `--only {system.name} {line.clause}` |"
        for line in lines
    ]


def _grouped(system: System, lines: list[Line]) -> list[str]:
    """One row for each reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        if line.result in {"not offered", "not evaluable"}:
            reasons.setdefault((line.result, line.seen), []).append(line.clause)
    rows = ["| clauses | result | why | again: `python -m benchmarks.scorecard` … |", "|---|---|---|---|"]
    return rows + [
        f"| {', '.join(clauses)} | {result} | {_cell(why)} | `--only {system.name} {' '.join(clauses)}` |"
        for (result, why), clauses in reasons.items()
    ]


def _left_out() -> list[str]:
    return [
        "## Not asked of anyone\n",
        NOT_ASKED,
        ", ".join(clause.id for clause in LEFT_OUT) + ".",
    ]
