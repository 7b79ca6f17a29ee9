"""The suite on trial: each broken backend is found out by the clause meant for it, and good ones go free."""

import os
import sys
from pathlib import Path

import pytest

from durable_store_conformance.exam import CASES, Case, examine
from tests.mutants import BROKEN, INSTALLED, MUTANTS, Mutant, document


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process and its children find the entry point."""
    monkeypatch.setattr(sys, "path", [INSTALLED, *sys.path])
    monkeypatch.setenv("PYTHONPATH", INSTALLED, prepend=os.pathsep)


def cases_of(clause: str) -> list[Case]:
    return [case for case in CASES if case.clause.id == clause]


def url(name: str, directory: Path, case: Case) -> str:
    directory /= str(CASES.index(case))
    directory.mkdir()
    return f"mutant://{name}{directory}/store.db"


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)
def test_a_mutant_fails_the_clause_meant_for_it(mutant: Mutant, tmp_path: Path) -> None:
    cases = cases_of(mutant.clause)
    assert cases, f"there is no clause {mutant.clause}"
    for case in cases:
        try:
            examine(case, url(mutant.name, tmp_path, case))
        except BROKEN:
            return
    pytest.fail(f"{mutant.clause} finds nothing wrong with a store that does this: {mutant.mistake}")


@pytest.mark.parametrize(("good", "clause"), sorted({(mutant.good, mutant.clause) for mutant in MUTANTS.values()}))
def test_without_the_mistake_nothing_fails(good: str, clause: str, tmp_path: Path) -> None:
    for case in cases_of(clause):
        examine(case, url(good, tmp_path, case))


def test_the_document_tells_of_the_clauses_and_mutants_that_there_are() -> None:
    """The figures in it are measured by `make matrix` only."""
    told, heading, _ = document.DOCUMENT.read_text().partition(document.HEADING)
    assert told == document.words(), "run `python -m tests.mutants.matrix --words`"
    assert heading
