"""The benchmark: its arithmetic, its document, and that it measures at all. Peers are not asked here."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench.bounds import BOUNDS, Bound, against, widest
from benchmarks.bench.child import CONTESTANTS, ROLES
from benchmarks.bench.contestants import Contestant
from benchmarks.bench.measuring import flushes_between_marks, of_rounds, ratio, spread
from benchmarks.bench.place import run_child
from benchmarks.bench.report import TABLES, document, number
from benchmarks.bench.states import Growing, Small
from benchmarks.bench.workloads import WORKLOADS

PYTHON = Path(sys.executable)
ABOUT = {
    "what": "Some turns.",
    "date": "2026-01-02",
    "system": "Linux",
    "cpus": 2,
    "rounds": 3,
    "trial": False,
    "python": "3.11.7",
    "versions": {"langgraph-checkpoint-sqlite": "3.1.2"},
    "sqlite": {"apsw": "3.53.1", "sqlite3": "3.40.1"},
    "titles": {"ours-sqlite": ["Ours", "It commits."], "langgraph": ["Theirs", "It puts."]},
}


def rounds(*figures: float, name: str = "commits_per_s") -> list[dict[str, Any]]:
    return [{name: each, "commits": 5, "seconds": 1.0} for each in figures]


def results(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    counted = {"ours-sqlite": {"flushes_per_commit": 1.0}, "langgraph": {"flushes_per_commit": 0.02}}
    measured = {"ours-sqlite": ours, "langgraph": theirs}
    return {
        "plots": {"floor": "A plot"},
        "workloads": {"Grow": {"about": ABOUT, "rounds": measured, "counted": counted}},
    }


# The arithmetic


def test_a_spread_is_a_median_and_the_extremes() -> None:
    assert spread([3, 1, 2, 10]) == (2.5, 1, 10)
    assert spread([]) is None
    assert of_rounds([{"a": 1}, {}, {"a": None}, {"a": 3}], "a") == (2, 1, 3)


def test_ratios_are_taken_within_a_round() -> None:
    """The machine was three times as slow in the second round: the ratio of the medians would say 1.5."""
    assert ratio(rounds(30, 10, 40), rounds(10, 5, 20), "commits_per_s") == (2, 2, 3)


def test_a_round_without_the_figure_has_no_ratio() -> None:
    assert ratio([{"a": 2}, {"a": 4}], [{}, {"a": 2}], "a") == (2, 2, 2)
    assert ratio([{"a": 2}], [], "a") is None


def test_flushes_are_counted_between_the_marks() -> None:
    trace = """\
10 fsync(3) = 0
10 getppid() = 9
11 fdatasync(4 <unfinished ...>
12 fsync(5) = 0
11 <... fdatasync resumed>) = 0
10 getppid() = 9
10 fsync(3) = 0
"""
    assert flushes_between_marks(trace) == 2
    assert flushes_between_marks("10 fsync(3) = 0\n") is None


def test_a_bound_holds_on_its_side_of_the_limit() -> None:
    assert Bound("", "", lambda _: None, 2, at_least=True).holds(2)
    assert not Bound("", "", lambda _: None, 2, at_least=True).holds(1.9)
    assert Bound("", "", lambda _: None, 2).holds(2)
    assert not Bound("", "", lambda _: None, 2).holds(2.1)


def test_flat_is_the_worst_size_against_the_smallest() -> None:
    sizes = {"ours-sqlite, 10 keys": rounds(1, 2), "ours-sqlite, 100 keys": rounds(3, 6)}
    assert widest("ours-sqlite", "commits_per_s")({"rounds": sizes | {"ours-files, 10 keys": rounds(9)}}) == 3


def test_what_was_not_measured_has_no_figure() -> None:
    nothing: dict[str, Any] = {"rounds": {}, "counted": {}}
    assert [bound.measure(nothing) for bound in BOUNDS] == [None] * len(BOUNDS)
    assert against("langgraph", "wchar")(nothing) is None


# The document


def test_the_document_shows_medians_spreads_and_what_does_not_hold() -> None:
    page = document(results(rounds(300, 310, 290), rounds(100, 100, 100)))
    assert "| **Ours** | 300 (290…310) |" in page
    assert "| Grow, SQLite: commits/s of LangGraph's | ≥ 2 | ≥ 2.5 | 3 | holds |" in page
    page = document(results(rounds(100, 110, 90), rounds(100, 100, 100)))
    assert "| Grow, SQLite: commits/s of LangGraph's | ≥ 2 | ≥ 2.5 | 1 | **does not hold** |" in page
    assert "| Long, SQLite: memory of the state's JSON | ≤ 4 |  | – | not measured |" in page  # noqa: RUF001
    assert "Measured on 2026-01-02 on Linux with 2 CPUs" in page
    assert "![A plot](plots/floor.svg)" in page


def test_who_does_not_flush_is_called_not_durable() -> None:
    page = document(results(rounds(300), rounds(100)))
    assert "Not durable, by the flushes that were counted: Theirs." in page
    assert "**not durable**: 0.02" in page


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (0.01234, "0.0123"), (1.5, "1.5"), (999.6, "1 000"), (15_234, "15 200")]
)
def test_numbers_have_three_digits_that_matter(value: float, shown: str) -> None:
    assert number(value) == shown


# What is measured


def test_each_workload_has_a_table_a_role_and_contestants() -> None:
    for workload in WORKLOADS:
        assert workload.name in TABLES
        assert {workload.role, *workload.reads} <= set(ROLES)
        assert {case.contestant for case in workload.cases} <= set(CONTESTANTS)
        assert len({case.name for case in workload.cases}) == len(workload.cases)
    assert {bound.workload for bound in BOUNDS} <= {workload.name for workload in WORKLOADS}


def test_states_are_the_same_each_time_and_as_large_as_they_are_said_to_be() -> None:
    one, other, small = Growing(), Growing(budget_first=True), Small()
    for _ in range(3):
        one.turn()
        other.turn()
        small.turn()
    assert one.state == other.state
    assert (list(one.state), list(other.state)) == (["messages", "budget"], ["budget", "messages"])
    assert {len(message["content"]) for message in one.state["messages"]} == {1500}
    assert len(one.state["messages"]) == 6
    assert 4000 <= len(json.dumps(small.state)) <= 4600


@pytest.mark.parametrize("contestant", ["ours-sqlite", "ours-files", "json", "floor-sqlite"])
def test_five_turns_give_figures(tmp_path: Path, contestant: str) -> None:
    said = run_child(PYTHON, {"role": "grow", "contestant": contestant, "place": str(tmp_path), "turns": 5})
    assert said["commits"] == 5
    assert said["commits_per_s"] > 0
    assert said["peak"] >= said["start"] > 0
    assert said["disk"] > 0
    assert said["state"] > 5 * 2 * 1500
    if sys.platform == "linux":
        assert said["wchar"] > 0
        assert [turn for turn, _ in said["curve"]] == [1, 2, 3, 4, 5]
    if not contestant.startswith("floor"):
        read = run_child(PYTHON, {"role": "latest", "contestant": contestant, "place": str(tmp_path)})
        assert read["digest"] == said["digest"]
        assert read["latest_ms"] > 0


def test_a_contestant_that_keeps_nothing_is_none() -> None:
    with pytest.raises(NotImplementedError):
        Contestant().commit("agent-0", 0, {}, b"")
