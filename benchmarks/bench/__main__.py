"""Makes the environment, measures, writes the results, the document and its plots."""

import argparse
import json
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.bench.child import CONTESTANTS, contestant_of
from benchmarks.bench.place import PLACE, PYTHON, ROOT, prepare, run_child
from benchmarks.bench.report import document
from benchmarks.bench.workloads import GROUPS, WORKLOADS, Bench, Workload

ROUNDS = 7
RESULTS = ROOT / "docs" / "bench.json"
TRIAL = PLACE / "trial" / "bench.json"


def about(workload: Workload, said: dict[str, Any], rounds: int, *, trial: bool) -> dict[str, Any]:
    """What one has to know beside the figures."""
    contestants = dict.fromkeys(case.contestant for case in workload.cases)
    titles = {name: contestant_of(name) for name in contestants}
    return {
        "what": workload.about,
        "date": datetime.now(UTC).date().isoformat(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "rounds": rounds,
        "trial": trial,
        "titles": {name: [each.title, each.how] for name, each in titles.items()},
        **said,
    }


def measure(chosen: list[str], rounds: int, directory: Path, results: Path, *, trial: bool) -> None:
    """Measures these groups of workloads; what is in the results already of others stays."""
    packages = prepare()
    said = run_child(PYTHON, {"role": "versions", "packages": packages})
    found: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {"workloads": {}}
    results.parent.mkdir(parents=True, exist_ok=True)
    with Bench(PYTHON, directory, trial=trial) as bench:
        for workload in WORKLOADS:
            if workload.group not in chosen:
                continue
            began = time.monotonic()
            measured = bench.measure(workload, rounds)
            found["workloads"][workload.name] = {"about": about(workload, said, rounds, trial=trial), **measured}
            order = [each.name for each in WORKLOADS]
            found["workloads"] = {name: found["workloads"][name] for name in order if name in found["workloads"]}
            results.write_text(json.dumps(found, separators=(",", ":"), sort_keys=False) + "\n")
            print(f"{workload.name} took {time.monotonic() - began:.0f} s", flush=True)
    write(results)


def write(results: Path) -> None:
    """The document and its plots, beside the results."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(PYTHON), "-P", "-m", "benchmarks.bench.plots", str(results), str(results.parent / "plots")]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(results.read_text())
    found["plots"] = json.loads(done.stdout.splitlines()[-1])
    results.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    (results.parent / "BENCHMARKS.md").write_text(document(found))
    print(f"wrote BENCHMARKS.md, {results.name} and {len(found['plots'])} plots")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="What a commit costs.")
    parser.add_argument("--only", nargs="+", metavar="GROUP", choices=GROUPS, help=f"some of {', '.join(GROUPS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each contestant; {ROUNDS} by default")
    parser.add_argument("--directory", type=Path, default=PLACE / "stores", help="on the disk that is to be measured")
    parser.add_argument("--json", type=Path, help="the results; BENCHMARKS.md and plots/ are written beside them")
    parser.add_argument("--trial", action="store_true", help="small sizes, to see that everything works")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the document anew")
    options = parser.parse_args()
    results: Path = (options.json or (TRIAL if options.trial else RESULTS)).absolute()
    if options.render:
        prepare()
        write(results)
        return
    directory: Path = options.directory.absolute()
    measure(options.only or list(GROUPS), options.rounds, directory, results, trial=options.trial)


if __name__ == "__main__":
    assert set(CONTESTANTS) >= {case.contestant for each in WORKLOADS for case in each.cases}
    main()
