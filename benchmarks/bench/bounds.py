"""What was to be reached, each with what was measured: ratios are taken within a round, and of them the median."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.bench.measuring import of_rounds, ratio

Results = Mapping[str, Any]
"""What was measured in one workload: `rounds` and `counted`, both by case."""

LANGGRAPH, PRUNING, OURS, FILES = "langgraph", "langgraph-pruning", "ours-sqlite", "ours-files"


@dataclass(frozen=True)
class Bound:
    """One figure that was to be reached.

    Attributes:
        words: what it is.
        workload: where it is measured.
        measure: the figure, from the workload's results; None where it was not measured.
        limit: what was to be reached.
        at_least: whether more is better.
        aim: what was hoped for.
    """

    words: str
    workload: str
    measure: Callable[[Results], float | None]
    limit: float
    at_least: bool = False
    aim: float | None = None

    def holds(self, measured: float) -> bool:
        """Whether that is good enough."""
        return measured >= self.limit if self.at_least else measured <= self.limit


def against(other: str, figure: str, one: str = OURS) -> Callable[[Results], float | None]:
    """The ratio of a figure to that of another contestant."""

    def measure(results: Results) -> float | None:
        rounds = results["rounds"]
        found = ratio(rounds.get(one, []), rounds.get(other, []), figure)
        return found and found.median

    return measure


def alone(figure: str, case: str = OURS) -> Callable[[Results], float | None]:
    """A figure that is a ratio by itself."""

    def measure(results: Results) -> float | None:
        found = of_rounds(results["rounds"].get(case, []), figure)
        return found and found.median

    return measure


def widest(contestant: str, figure: str) -> Callable[[Results], float | None]:
    """The worst of all sizes against the smallest."""

    def measure(results: Results) -> float | None:
        cases = [rounds for case, rounds in results["rounds"].items() if case.startswith(f"{contestant},")]
        found = [ratio(rounds, cases[0], figure) for rounds in cases]
        return max((each.median for each in found if each), default=None)

    return measure


def counted(figure: str, case: str = OURS, other: str | None = None) -> Callable[[Results], float | None]:
    """A figure of the counting run, or its ratio to that of another contestant."""

    def measure(results: Results) -> float | None:
        one = results["counted"].get(case, {}).get(figure)
        if one is None or other is None:
            return None if one is None else float(one)
        against_it = results["counted"].get(other, {}).get(figure)
        return float(one) / float(against_it) if against_it else None

    return measure


def _growing(workload: str, *, speed: float, aim: float | None, pruning: float) -> list[Bound]:
    """The bounds of a state that grows, against LangGraph's saver."""
    return [
        Bound(
            f"{workload}, SQLite: commits/s of LangGraph's",
            workload,
            against(LANGGRAPH, "commits_per_s"),
            speed,
            at_least=True,
            aim=aim,
        ),
        Bound(
            f"{workload}, SQLite: commits/s of LangGraph's when it removes old checkpoints",
            workload,
            against(PRUNING, "commits_per_s"),
            pruning,
            at_least=True,
        ),
        Bound(
            f"{workload}, SQLite: bytes written of LangGraph's",
            workload,
            against(LANGGRAPH, "wchar"),
            1 / 8,
            aim=1 / 20,
        ),
        Bound(
            f"{workload}, SQLite: bytes for the disk of LangGraph's",
            workload,
            against(LANGGRAPH, "write_bytes"),
            1 / 8,
            aim=1 / 20,
        ),
        Bound(f"{workload}, SQLite: disk left of LangGraph's", workload, against(LANGGRAPH, "disk"), 1 / 50),
        Bound(
            f"{workload}, SQLite: `latest` in a fresh process of LangGraph's, its opening included",
            workload,
            against(LANGGRAPH, "latest_ms"),
            1.5,
        ),
        Bound(
            f"{workload}, SQLite: that, with the import of what it needs, of LangGraph's",
            workload,
            against(LANGGRAPH, "fresh_ms"),
            1.5,
        ),
    ]


BOUNDS = (
    *_growing("Grow", speed=2, aim=2.5, pruning=3),
    Bound(
        "Grow, files: commits/s of json + os.replace + fsync",
        "Grow",
        against("json", "commits_per_s", FILES),
        3,
        at_least=True,
    ),
    *(bound for bound in _growing("GrowBudgetFirst", speed=1, aim=None, pruning=1) if "removes" not in bound.words),
    Bound("History, SQLite: disk of the final state's JSON", "History", alone("disk_of_state"), 2, aim=1.2),
    Bound("History, SQLite: the slowest step to read of the newest", "History", alone("worst_of_newest"), 2),
    Bound("Small, SQLite: seconds of a bare row's, pruning included", "Small", against("floor-sqlite", "seconds"), 1.6),
    Bound("Small, SQLite: flushes of a commit", "Small", counted("flushes_per_commit"), 1.05),
    Bound("Swarm, SQLite: commits/s of LangGraph's", "Swarm", against(LANGGRAPH, "commits_per_s"), 4, at_least=True),
    Bound(
        "Swarm, SQLite: commits/s of bare grouped transactions from 64 threads",
        "Swarm",
        against("floor-grouped", "commits_per_s"),
        0.7,
        at_least=True,
    ),
    *(
        Bound(f"{name}, {where}: {what} of any size of the smallest's", name, widest(contestant, figure), 1.5)
        for name in ("ReadKeys", "ReadSteps")
        for contestant, where, what, figure in (
            (OURS, "SQLite", "`latest`", "latest_us"),
            (FILES, "files", "`latest`", "latest_us"),
            ("ours-s3", "S3", "requests", "requests"),
        )
    ),
    *(
        Bound(
            f"ReadKeys, {where}: `latest` of any size, not read lately, of the smallest's",
            "ReadKeys",
            widest(contestant, "unread_us"),
            1.5,
        )
        for contestant, where in ((OURS, "SQLite"), (FILES, "files"))
    ),
    Bound(
        "Long, SQLite: a commit at the end of the JSON of its state, checks included",
        "Long",
        alone("commit_of_json"),
        3,
    ),
    Bound("Long, SQLite: memory of the state's JSON", "Long", alone("memory_of_state"), 4),
    *(
        Bound(
            f"S3 Grow, {server}: bytes sent of those of whole states",
            "S3Grow",
            counted("sent", f"ours-s3, {server}", f"whole-s3, {server}"),
            0.05,
        )
        for server in ("moto", "seaweedfs")
    ),
)
"""In the order of the document."""
