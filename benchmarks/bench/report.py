"""docs/BENCHMARKS.md, from the figures of all rounds."""
# ruff: noqa: RUF001, RUF003 - × and – are meant

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.bench.bounds import BOUNDS
from benchmarks.bench.measuring import Figures, Spread, of_rounds, ratio

HEAD = """\
# What a commit costs

Figures of this library, of peers, and of what the disk takes at least. Written by `make bench`; do not edit.
"""

HOW = """\
## How it was measured

* Each contestant does each round in a process and a directory of its own; within a round they take turns. Figures are
  medians over the rounds, with the least and the most of them in brackets; a ratio is taken within a round, and of
  those the median, since machines drift.
* All keep the same states: text of the standard library's sources. A commit is timed from the call to its return;
  making the state is not. Seconds are the sum over all commits, commits/s their number by it: the first commit of a
  process, which makes tables and directories, is in it. p50 is that of single commits.
* Bytes *written* are what the process handed to `write` and its kind (`wchar` of `/proc/self/io`), *for the disk* what
  the kernel counts as caused by it there (`write_bytes`), both with the closing of the store. *Disk* is the size of all
  files after the close, and, in use, of all files with the write-ahead log right after the last commit.
* Flushes (`fsync`, `fdatasync`) are counted by strace in a shorter run of their own, after the first few commits.
* `latest` is read by a process that was just started, from the opening of the store to Python objects. The start of the
  interpreter is not in it; what it takes to import the library is told apart.
* Before `latest` of many keys or steps, on SQLite and files, another process reads the same, so that they are in the
  machine's memory in a store of any size, as the few of a small store always are. *Not read lately* is what that other
  process saw; where it reads few keys again and again, or one, that is no first reading either. *The first* is the
  first read of the process behind it.
* Memory is the most that the process ever had (`VmHWM`), and, in brackets, what that is above a process that has
  imported the same.
* The state that is read back is compared with the one that was committed last, for each contestant, in each round.
* The floors keep what has changed in the state since the last commit and nothing else, encode nothing and check
  nothing: no store can be faster that keeps that much, and none of them gives a state back.
"""

_NOTHING: Figures = {}
_LEVELS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
_PLACES = {"moto": "moto", "seaweedfs": "SeaweedFS"}


class Row(NamedTuple):
    """One case of a workload: its own rounds, those of all cases, and what was counted of it."""

    case: str
    rounds: Sequence[Figures]
    results: Mapping[str, Any]

    @property
    def counted(self) -> Figures:
        """By strace or a proxy."""
        found: Figures = self.results["counted"].get(self.case, {})
        return found


@dataclass(frozen=True)
class Column:
    """A column of a workload's table: what it is called, and a cell of it."""

    name: str
    cell: Callable[[Row], str]


def number(value: float) -> str:
    """Three digits that matter, and thousands apart."""
    if value == 0:
        return "0"
    if abs(value) >= 999.5:
        digits = len(str(int(abs(value))))
        return f"{round(value, 3 - digits):,.0f}".replace(",", " ")
    return f"{value:.3g}"


def shown(found: Spread | None, scale: float = 1) -> str:
    """A median and its spread."""
    if found is None:
        return "–"
    median, least, most = (number(value * scale) for value in found)
    return median if least == most else f"{median} ({least}…{most})"


def figure(name: str, title: str, scale: float = 1) -> Column:
    """A figure of its own."""
    return Column(title, lambda row: shown(of_rounds(row.rounds, name), scale))


def times(name: str, other: str, title: str) -> Column:
    """A figure in multiples of another case's."""
    return Column(title, lambda row: shown(ratio(row.rounds, row.results["rounds"].get(other, []), name)))


def count(name: str, title: str) -> Column:
    """A figure of the counting run."""
    return Column(title, lambda row: "–" if row.counted.get(name) is None else number(row.counted[name]))


def _memory(row: Row) -> str:
    above = [{"above": each["peak"] - each["start"]} for each in row.rounds if "peak" in each]
    peak, more = of_rounds(row.rounds, "peak"), of_rounds(above, "above")
    return "–" if peak is None or more is None else f"{number(peak.median / 1e6)} ({number(more.median / 1e6)})"


def _durable(row: Row) -> str:
    """What is known of it: by what it asks of SQLite, and by what the kernel counted."""
    says: Figures = next((each for each in row.rounds if "synchronous" in each), _NOTHING)
    level = _LEVELS.get(says.get("synchronous", -1), "")
    pragma = f" ({says.get('journal_mode', '')}, synchronous={level})" if level else ""
    flushes = row.counted.get("flushes_per_commit")
    if flushes is None:
        return f"not counted{pragma}"
    # Commits of several threads may share a flush, those of one may not.
    together = any(each.get("threads", 1) > 1 for each in row.rounds)
    durable = flushes >= 0.99 or (together and flushes > 0)
    return f"{number(flushes)}{pragma}" if durable else f"**not durable**: {number(flushes)}{pragma}"


_COMMITS = (
    figure("commits_per_s", "commits/s"),
    figure("p50_us", "p50, µs"),
)
_BYTES = (
    Column("flushes a commit", _durable),
    figure("wchar", "MB written", 1e-6),
    figure("write_bytes", "MB for the disk", 1e-6),
    figure("disk", "MB left", 1e-6),
    figure("disk_open", "MB in use", 1e-6),
    Column("memory, MB", _memory),
)
_LATEST = (figure("latest_ms", "`latest`, ms"), figure("open_ms", "of it to open"), figure("import_ms", "import, ms"))
_GROWN = (*_COMMITS, times("seconds", "floor-sqlite", "× bare rows"), *_BYTES, *_LATEST)
_STEPS = (
    figure("newest_ms", "newest step, ms"),
    figure("worst_ms", "slowest step, ms"),
    figure("worst_of_newest", "slowest/newest"),
)
_SWARMED = (
    *_COMMITS,
    figure("p99_us", "p99, µs"),
    figure("most_us", "longest, µs"),
    times("seconds", "floor-grouped", "× bare groups"),
    *_BYTES[:-1],
    figure("refused", "refused"),
)
_READ = (
    figure("latest_us", "`latest`, µs"),
    figure("unread_us", "not read lately, µs"),
    figure("first_us", "the first, µs"),
    figure("requests", "requests"),
)
_LONG = (
    figure("commits_per_s", "commits/s"),
    figure("end_ms", "p50 at the end, ms"),
    figure("json_ms", "JSON alone, ms"),
    figure("commit_of_json", "× JSON"),
    figure("memory_of_state", "memory / state"),
    figure("state", "state, MB", 1e-6),
    *_BYTES[1:],
    *_LATEST,
)
_S3 = (
    *_COMMITS,
    figure("cpu_us", "client CPU, µs a commit"),
    count("requests_per_commit", "requests a commit"),
    Column("MB sent", lambda row: "–" if "sent" not in row.counted else number(row.counted["sent"] / 1e6)),
)

TABLES: Mapping[str, tuple[Column, ...]] = {
    "Grow": _GROWN,
    "GrowBudgetFirst": _GROWN,
    "History": (*_GROWN, figure("disk_of_state", "disk / state"), *_STEPS),
    "Small": _GROWN,
    "Swarm": _SWARMED,
    "ReadKeys": _READ,
    "ReadSteps": _READ,
    "Long": _LONG,
    "S3Grow": _S3,
    "S3Swarm": _S3,
}


def document(results: Mapping[str, Any]) -> str:
    """The whole page."""
    workloads: Mapping[str, Any] = results["workloads"]
    parts = [HEAD, *_abouts(workloads), "", *_reached(workloads), "", *_plots(results), *_durability(workloads)]
    for name, found in workloads.items():
        parts += ["", f"## {name}", "", found["about"]["what"], "", *_table(name, found), *_left_out(name, found)]
    return "\n".join([*parts, "", HOW, *_contestants(workloads)]).rstrip() + "\n"


def _abouts(workloads: Mapping[str, Any]) -> Iterable[str]:
    """When and with what, once if it is the same for all."""
    told: dict[str, list[str]] = {}
    for name, found in workloads.items():
        about = found["about"]
        versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
        trial = "**A trial, with small sizes: no figure of it means anything.** " if about["trial"] else ""
        told.setdefault(
            f"{trial}Measured on {about['date']} on {about['system']} with {about['cpus']} CPUs,"
            f" rounds: {about['rounds']}, Python {about['python']},"
            f" SQLite {about['sqlite']['apsw']} (ours and the floors) and"
            f" {about['sqlite']['sqlite3']} (the peers); {versions}.",
            [],
        ).append(name)
    for line, names in told.items():
        which = "" if len(told) == 1 else f" ({', '.join(names)})"
        yield f"{line}{which}\n"


def _reached(workloads: Mapping[str, Any]) -> Iterable[str]:
    yield "## What was to be reached"
    yield ""
    yield "| | limit | aim | measured | |"
    yield "|---|---|---|---|---|"
    for bound in BOUNDS:
        measured = bound.measure(workloads[bound.workload]) if bound.workload in workloads else None
        sign = "≥" if bound.at_least else "≤"
        verdict = "not measured" if measured is None else "holds" if bound.holds(measured) else "**does not hold**"
        aim = "" if bound.aim is None else f"{sign} {number(bound.aim)}"
        value = "–" if measured is None else number(measured)
        yield f"| {bound.words} | {sign} {number(bound.limit)} | {aim} | {value} | {verdict} |"


def _plots(results: Mapping[str, Any]) -> Iterable[str]:
    for name, words in results.get("plots", {}).items():
        yield f"![{words}](plots/{name}.svg)"
        yield ""


def _table(name: str, found: Mapping[str, Any]) -> Iterable[str]:
    rows = [Row(case, rounds, found) for case, rounds in found["rounds"].items()]
    cells = [[column.cell(row) for column in TABLES[name]] for row in rows]
    # A column that says nothing of anybody is left out.
    columns = [at for at in range(len(TABLES[name])) if any(line[at] not in ("–", "0") for line in cells)]
    yield "| | " + " | ".join(TABLES[name][at].name for at in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for row, line in zip(rows, cells, strict=True):
        yield f"| {_title(row.case, found)} | " + " | ".join(line[at] for at in columns) + " |"


def _title(case: str, found: Mapping[str, Any]) -> str:
    contestant, _, rest = case.partition(", ")
    title = found["about"]["titles"][contestant][0]
    bold = f"**{title}**" if contestant.startswith("ours") else title
    what = _PLACES.get(rest, rest)
    many, _, unit = what.partition(" ")
    return f"{bold}, {number(int(many))} {unit}" if many.isdigit() else f"{bold}, {what}" if what else bold


def _left_out(name: str, found: Mapping[str, Any]) -> Iterable[str]:
    """What a table cannot say."""
    refusals = {
        case: each["refusal"] for case, rounds in found["rounds"].items() for each in rounds if "refusal" in each
    }
    for case, refusal in refusals.items():
        yield ""
        yield f"{_title(case, found)} refused some commits: `{refusal}`."
    if name in ("Grow", "GrowBudgetFirst", "History"):
        state = next(iter(found["rounds"].values()))[0].get("state", 0)
        yield ""
        yield f"The last state has {state / 1e6:.2f} MB of JSON."


def _durability(workloads: Mapping[str, Any]) -> Iterable[str]:
    """Those who flush less than once a commit, in words."""
    found = workloads.get("Small") or workloads.get("Grow")
    if found is None:
        return
    rows = [Row(case, rounds, found) for case, rounds in found["rounds"].items()]
    loose = [_title(row.case, found) for row in rows if "not durable" in _durable(row)]
    yield (
        f"Not durable, by the flushes that were counted: {', '.join(loose)}."
        if loose
        else "Every contestant whose flushes were counted flushes at least once a commit: what it has returned from"
        " is on the disk; what json + os.replace leaves out is the directory."
    )


def _contestants(workloads: Mapping[str, Any]) -> Iterable[str]:
    yield "## Who takes part"
    yield ""
    titles: dict[str, str] = {}
    for found in workloads.values():
        titles |= dict(found["about"]["titles"].values())
    yield from (f"* {title}: {how}" for title, how in titles.items())
