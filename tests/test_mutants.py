"""The suite on trial: each broken backend is found out by the clause meant for it, and good ones go free."""

import os
import sys
from pathlib import Path

import pytest

from durable_store_conformance.clauses.sharing import met
from durable_store_conformance.exam import CASES, CLAUSES, Case, examine
from durable_store_conformance.history import Op
from tests.mutants import BROKEN, GOOD, INSTALLED, MUTANTS, Mutant, document


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


@pytest.mark.parametrize("case", [case for case in CASES if case.clause.group.name == "OUT"], ids=str)
def test_what_a_verb_imports_when_it_is_first_called_is_no_storage_out_of_reach(case: Case, tmp_path: Path) -> None:
    examine(case, url("good-lazy-files", tmp_path, case))


def test_processes_have_met_when_one_was_given_what_another_one_saved() -> None:
    mine = Op("process 0", "save", "key", 0, "a", outcome="ours", found=(0, "a"))
    assert not met([mine, mine._replace(record="b", outcome="theirs")]), "one process alone has both outcomes"
    assert not met([mine, mine._replace(process="process 1", record="b", step=1, found=(1, "b"))])
    assert met([mine, mine._replace(process="process 1", record="b", outcome="theirs")])


def test_the_document_tells_of_the_clauses_and_mutants_that_there_are() -> None:
    """The figures in it are measured by `make matrix` only."""
    told, heading, _ = document.DOCUMENT.read_text().partition(document.HEADING)
    assert told == document.words(), "run `python -m tests.mutants.matrix --words`"
    assert heading


def test_the_figures_in_the_document_are_of_the_clauses_and_mutants_of_today() -> None:
    _, _, figures = document.DOCUMENT.read_text().partition(document.HEADING)
    assert document.stale(figures) == [], "run `make matrix`"


def test_figures_without_a_mutant_or_a_clause_of_today_are_stale() -> None:
    """Also those of a clause or a mutant that is gone."""
    rows = [document.Row(name, {}) for name in GOOD]
    fails = {clause.id: document.Verdict.FAILS for clause in CLAUSES[3:]}
    rows += [document.Row(name, {**fails, CLAUSES[5].id: document.Verdict.HANGS}) for name in MUTANTS]
    figures = document.matrix(rows)
    assert document.stale(figures) == []
    assert document.stale(document.matrix(rows[:-1])) == [rows[-1].backend]
    assert document.stale(figures.replace(CLAUSES[0].id, "DS-GONE-01")) == ["DS-GONE-01", CLAUSES[0].id]
    assert document.stale(figures.replace(f"{CLAUSES[-1].group.name} ", "GONE "))
    assert document.stale("\nNot measured yet: `make matrix`.\n") == []
