"""What docs/CONFORMANCE.md says: words from the registry and from the mutants, and figures that were measured."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from durable_store_conformance.exam import CASES, CLAUSES
from durable_store_conformance.registry import GROUPS, Clause
from tests.mutants import GOOD, MUTANTS

DOCUMENT = Path(__file__).parents[2] / "docs" / "CONFORMANCE.md"

HEADING = "## Which clause finds which mutant\n"
"""What comes after it is measured."""

NOT_MEASURED = "Not measured yet: `make matrix`."

_INTRODUCTION = """\
# Conformance

What a backend has to promise is written in the docstrings of `durable_store/backend.py`, and examined by numbered
clauses: {clauses} of them, with {cases} cases. Each quotes a promise, and asks for no more than it says. There are two
ways to have a backend sit the exam: `durable-store conformance URL`, or a class in your own tests:

```python
class TestMine(StoreConformance):
    @pytest.fixture
    def url(self, tmp_path):
        return f"mine://{{tmp_path}}/store"
```

No clause can be left out. A backend's grade is *full* when it keeps all of them; *base* when it keeps those that one
agent needs which is killed and goes on; and *none* when it fails one of these. Clauses about who wins a race, about
several who share a store, and those that need a fork, are beyond base. What a machine cannot examine is not passed.

What a URL does not show, no clause can: whether a record survives a power cut, and what a backend does when its
service is down or its disk is lost. Files, SQLite and S3 have tests of their own for that.

The suite is itself on trial: against {mutants} backends that are broken in one way each, and must be found out by the
clause meant for it, and against good ones, which must fail nothing. This document is made by `make matrix`.
"""

_MUTANTS = """
## The mutants

Each is files, SQLite or memory with one mistake, in `tests/mutants/`.

| mutant | what it does wrong | clause meant for it |
|---|---|---|
"""

_LEGEND = """\
The clause meant for a mutant is in bold. A clause with † ended by another error than a broken promise, one with ‡ hung,
and one with ? cannot be examined on this machine. Mutants of memory sit the clauses within one process only.
"""


class Verdict(IntEnum):
    """What a clause came to, as the exit status of the process that examined it."""

    HOLDS = 0
    BREAKS_OFF = 1
    FAILS = 2
    NOT_EVALUABLE = 3
    HANGS = 4


_MARKS = {Verdict.BREAKS_OFF: "†", Verdict.NOT_EVALUABLE: "?", Verdict.HANGS: "‡"}


class Row(NamedTuple):
    """What all clauses came to on one backend."""

    backend: str
    verdicts: Mapping[str, Verdict]

    @property
    def meant(self) -> str | None:
        """The clause meant for it; none for a good backend."""
        return None if self.backend in GOOD else MUTANTS[self.backend].clause

    @property
    def failed(self) -> list[Clause]:
        """What does not hold of all that was examined, in the order of the report."""
        return [clause for clause in CLAUSES if self.verdicts.get(clause.id, Verdict.HOLDS) is not Verdict.HOLDS]

    @property
    def as_meant(self) -> bool:
        """Whether it fails the clause meant for it; a good one, whether it fails none."""
        return self.verdicts.get(self.meant) is Verdict.FAILS if self.meant else not self.failed

    def __str__(self) -> str:
        return f"{self.backend}: {self.told}{'' if self.as_meant else '  <- NOT AS MEANT'}"

    @property
    def told(self) -> str:
        """The numbers of what does not hold, group by group, the one meant in bold."""
        groups = itertools.groupby(self.failed, key=lambda clause: clause.group.name)
        return " · ".join(f"{group} {' '.join(map(self._number, clauses))}" for group, clauses in groups) or "none"

    def _number(self, clause: Clause) -> str:
        number = clause.id[-2:] + _MARKS.get(self.verdicts[clause.id], "")
        return f"**{number}**" if clause.id == self.meant else number


def words() -> str:
    """The document as far as it is not measured."""
    introduction = _INTRODUCTION.format(clauses=len(CLAUSES), cases=len(CASES), mutants=len(MUTANTS))
    mutants = (f"| {mutant.name} | {mutant.mistake} | {mutant.clause} |\n" for mutant in MUTANTS.values())
    return introduction + "".join(_groups()) + _MUTANTS + "".join(mutants) + "\n"


def _groups() -> Iterator[str]:
    yield "\n## The clauses\n"
    for group in GROUPS.values():
        yield f"\n### {group.name}: {group.about}\n\n| | | promise | needs | cases |\n|---|---|---|---|---|\n"
        for clause in CLAUSES:
            if clause.group is group:
                grade = "" if clause.base else " (beyond base)"
                what = f"{clause.name.replace('_', ' ')}{grade}"
                needs = ", ".join(sorted(clause.needs))
                yield f"| {clause.id} | {what} | {clause.promise} | {needs} | {len(clause.cases)} |\n"


def matrix(rows: Sequence[Row]) -> str:
    """What was measured."""
    groups = [name for name in GROUPS if any(clause.group.name == name for clause in CLAUSES)]
    missed = [row.backend for row in rows if not row.as_meant]
    idle = [clause.id for clause in CLAUSES if not any(clause in row.failed for row in rows)]
    return "".join(
        (
            f"\n{len(CLAUSES)} clauses on {len(rows)} backends. {_LEGEND}",
            f"\nNot as meant: {', '.join(missed) or 'none'}.\n",
            "\n| backend | fails |\n|---|---|\n",
            *(f"| {row.backend} | {row.told} |\n" for row in rows),
            "\n### How many clauses of each group it fails\n",
            f"\n| backend | {' | '.join(groups)} |\n|---|{'---|' * len(groups)}\n",
            *(f"| {row.backend} | {' | '.join(_counts(row, groups))} |\n" for row in rows),
            f"\n### Clauses that nobody fails\n\n{', '.join(idle) or 'None'}.\n",
        )
    )


def stale(figures: str) -> list[str]:
    """The backends and clauses that were measured and are no more, or came since; none if nothing was measured yet."""
    if figures.strip() == NOT_MEASURED:
        return []
    rows = re.findall(r"^\| ([\w-]+) \| (.*) \|$", figures.partition("\n### ")[0], re.MULTILINE)
    backends = {backend for backend, _ in rows} - {"backend"}
    clauses = set(re.findall(r"DS-[A-Z]+-\d\d", figures.rpartition("\n### ")[2]))
    for group, numbers in re.findall(r"([A-Z]+)((?: \**\d\d[†?‡]?\**)+)", "\n".join(told for _, told in rows)):
        clauses.update(f"DS-{group}-{number}" for number in re.findall(r"\d\d", numbers))
    return sorted((backends ^ {*GOOD, *MUTANTS}) | (clauses ^ {clause.id for clause in CLAUSES}))


def _counts(row: Row, groups: Sequence[str]) -> Iterator[str]:
    for group in groups:
        count = sum(clause.group.name == group for clause in row.failed)
        yield str(count or "")
