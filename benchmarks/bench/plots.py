"""The plots of docs/BENCHMARKS.md, as SVG; the same figures give the same bytes.

    python -m benchmarks.bench.plots RESULTS DIRECTORY

Runs in the environment of the benchmark, which has matplotlib; `python -m benchmarks.bench` starts it there.
"""
# ruff: noqa: RUF001, RUF003 - × and – are meant

import json
import statistics
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.bench.measuring import of_rounds, ratio

PLOTS = {
    "floor": "Time of a commit in multiples of bare SQLite rows, by workload",
    "bytes": "Bytes written against turns, as a state grows",
    "latest": "`latest` against the number of keys and of steps",
}
COLORS = {
    "ours-sqlite": "#0b6e4f",
    "ours-files": "#6bbf59",
    "langgraph": "#b23a48",
    "langgraph-pruning": "#e08e45",
    "langgraph-writes": "#7d2e68",
    "burr": "#3d5a80",
    "json": "#8d99ae",
    "floor-sqlite": "#444444",
    "floor-append": "#999999",
    "floor-grouped": "#444444",
    "floor-batched": "#999999",
}
_FLOORS = {
    "Grow": "floor-sqlite",
    "GrowBudgetFirst": "floor-sqlite",
    "History": "floor-sqlite",
    "Small": "floor-sqlite",
    "Swarm": "floor-grouped",
}

_SHOWN = {
    "floor": set(_FLOORS),
    "bytes": {"Grow", "GrowBudgetFirst", "History"},
    "latest": {"ReadKeys", "ReadSteps"},
}

Workloads = Mapping[str, Any]


def _floor(figure: Any, workloads: Workloads) -> None:
    """A group of bars for each workload: the median, and between what the rounds lie."""
    names = [name for name in _FLOORS if name in workloads]
    cases = [case for case in COLORS if not case.startswith("floor") and case != "langgraph-writes"]
    axes = figure.subplots()
    width = 0.8 / len(cases)
    for at, case in enumerate(cases):
        places: list[float] = []
        medians: list[float] = []
        spans: tuple[list[float], list[float]] = ([], [])
        for group, name in enumerate(names):
            rounds = workloads[name]["rounds"]
            found = ratio(rounds.get(case, []), rounds.get(_FLOORS[name], []), "seconds")
            if found:
                places.append(group + (at - (len(cases) - 1) / 2) * width)
                medians.append(found.median)
                spans[0].append(found.median - found.least)
                spans[1].append(found.most - found.median)
        if places:
            axes.bar(
                places,
                medians,
                width,
                color=COLORS[case],
                label=_label(workloads, case),
                yerr=spans,
                error_kw={"elinewidth": 0.8, "ecolor": "#222222"},
            )
    axes.axhline(1, color="#444444", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("× the floor (bare rows; Swarm: bare groups)")
    axes.set_ylim(bottom=0.1)
    figure.legend(loc="outside lower center", fontsize=7, ncols=3, frameon=False)


def _bytes(figure: Any, workloads: Workloads) -> None:
    """A line for each contestant, medians over the rounds."""
    names = [name for name in workloads if name in _SHOWN["bytes"]]
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=False):
        for case, rounds in workloads[name]["rounds"].items():
            curves = [each["curve"] for each in rounds if each.get("curve")]
            if curves and case in COLORS:
                turns = [turn for turn, _ in curves[0]]
                written = [statistics.median(curve[at][1] for curve in curves) / 1e6 for at in range(len(turns))]
                style = "--" if case.startswith("floor") else "-"
                axes.plot(turns, written, style, color=COLORS[case], linewidth=1.4, label=_label(workloads, case))
        axes.set_yscale("log")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("turns")
    axes = figure.axes[0]
    axes.set_ylabel("MB written so far")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=7, ncols=3, frameon=False)


def _latest(figure: Any, workloads: Workloads) -> None:
    """A line for each backend, and between what the rounds lie."""
    names = [name for name in workloads if name in _SHOWN["latest"]]
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=False):
        rounds = workloads[name]["rounds"]
        for contestant in ("ours-sqlite", "ours-files"):
            sizes = {case: int(case.split()[1]) for case in rounds if case.startswith(f"{contestant},")}
            found = {many: of_rounds(rounds[case], "latest_us") for case, many in sizes.items()}
            points = {many: each for many, each in found.items() if each}
            axes.plot(
                list(points),
                [each.median for each in points.values()],
                "o-",
                color=COLORS[contestant],
                label=_label(workloads, contestant),
                markersize=3,
            )
            axes.fill_between(
                list(points),
                [each.least for each in points.values()],
                [each.most for each in points.values()],
                color=COLORS[contestant],
                alpha=0.2,
                linewidth=0,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("keys in the store" if name == "ReadKeys" else "steps under the key")
    axes = figure.axes[0]
    axes.set_ylabel("µs, median of 200")
    axes.legend(fontsize=8, frameon=False)


DRAWN: Mapping[str, Callable[[Any, Workloads], None]] = {"floor": _floor, "bytes": _bytes, "latest": _latest}


def _label(workloads: Workloads, case: str) -> str:
    titles = (found["about"]["titles"] for found in workloads.values())
    return next((each[case][0] for each in titles if case in each), case)


def main(results: Path, directory: Path) -> None:
    """Draws what there are figures for, and says on stdout what that is."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("svg")
    # Text stays text: small files that can be searched. The salt makes the ids in them the same each time.
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "durable-store",
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    pyplot = import_module("matplotlib.pyplot")
    workloads = json.loads(results.read_text())["workloads"]
    directory.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, str] = {}
    for name, words in PLOTS.items():
        figure = pyplot.figure(figsize=(9, 4.2), layout="constrained")
        if not _SHOWN[name].isdisjoint(workloads):
            DRAWN[name](figure, workloads)
            figure.suptitle(words.replace("`", ""), fontsize=10)
            figure.savefig(directory / f"{name}.svg", metadata={"Date": None, "Creator": None})
            drawn[name] = words
        pyplot.close(figure)
    sys.stdout.write(json.dumps(drawn) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
