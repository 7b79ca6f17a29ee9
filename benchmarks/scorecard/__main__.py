"""Makes the environment, asks the systems there, writes docs/SCORECARD.md."""

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.scorecard.report import document, line_of
from benchmarks.scorecard.systems import ORDER, SYSTEMS, System

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".scorecard"
PYTHON = PLACE / "venv" / "bin" / "python"
DOCUMENT = ROOT / "docs" / "SCORECARD.md"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
SHOWN_ANYWAY = "DS-DAMAGE-01a"
"""Asked although nobody offers it: what is seen is worth a line, and is no failure."""


def prepare() -> dict[str, str]:
    """Makes the environment, if it is not there as it should be; returns the pinned versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own: list[str] = [*project["dependencies"], *project["optional-dependencies"]["conformance"]]
    pinned = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    ready = PLACE / "ready"
    wanted = "\n".join([sys.version, *own, *pinned])
    if not ready.exists() or ready.read_text() != wanted:
        print("makes .scorecard/venv …", flush=True)
        venv.create(PLACE / "venv", with_pip=True, clear=True)
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *own, *pinned], check=True)
        ready.write_text(wanted)
    _register()
    return dict(line.split("==") for line in pinned)


def _register() -> None:
    """The adapters as backends, for every process that has this directory on its path: as if they were installed."""
    about = PLACE / "entry" / "durable_store_scorecard-0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: durable-store-scorecard\nVersion: 0\n")
    entries = [f"{system.name} = benchmarks.scorecard.adapters:{system.adapter}" for system in SYSTEMS]
    (about / "entry_points.txt").write_text("\n".join(["[durable_store.backends]", *entries, ""]))


def answers(system: System, clauses: list[str], *, verbose: bool) -> Iterator[dict[str, Any]]:
    """What `examine` says in the environment, line by line."""
    path = [ROOT, ROOT / "backends", ROOT / "conformance", PLACE / "entry"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    with subprocess.Popen(
        [PYTHON, "-P", "-m", "benchmarks.scorecard.examine", system.name, *clauses],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=None if verbose else subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise SystemExit(f"{system.name}: the examination ended with {process.returncode}; see --only {system.name}")


def _said(system: System, answer: dict[str, Any]) -> None:
    line = line_of(system, answer["clause"], answer["cases"])
    print(f"{system.name:24} {line.clause:14} {line.result:13} {answer['seconds']:6} s  {line.seen}", flush=True)


def everything() -> None:
    """Asks all, and writes the document."""
    started = time.monotonic()
    about: dict[str, Any] = {"versions": prepare()}
    seen: dict[str, dict[str, list[list[str]]]] = {}
    for system in SYSTEMS:
        found = seen[system.name] = {}
        shown = [SHOWN_ANYWAY] if SHOWN_ANYWAY not in system.not_evaluable else []
        for answer in answers(system, [*system.asked, *shown], verbose=False):
            if "clause" in answer:
                found[answer["clause"]] = answer["cases"]
                _said(system, answer)
            else:
                about |= answer
    DOCUMENT.write_text(document(seen, about, datetime.now(UTC).date()))
    print(f"wrote {DOCUMENT.relative_to(ROOT)} after {(time.monotonic() - started) / 60:.0f} minutes")


def only(name: str, clauses: list[str]) -> None:
    """Asks these of one system; the errors go to stderr as they are."""
    system = next((system for system in SYSTEMS if system.name == name), None)
    unknown = sorted(set(clauses) - set(ORDER))
    if system is None:
        raise SystemExit(f"no system {name}: {', '.join(system.name for system in SYSTEMS)}")
    if unknown:
        raise SystemExit(f"no clause {unknown[0]}: {', '.join(ORDER)}")
    prepare()
    for answer in answers(system, clauses or system.asked, verbose=True):
        if "clause" in answer:
            for case, result, seen in answer["cases"]:
                print(f"{answer['clause']:14} {case:30} {result:12} {seen}")
            _said(system, answer)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorecard", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar=("SYSTEM", "CLAUSE"), help="ask one system, and write nothing")
    options = parser.parse_args()
    if options.only:
        only(options.only[0], options.only[1:])
    else:
        everything()


if __name__ == "__main__":
    main()
