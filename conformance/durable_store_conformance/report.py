"""What an exam came to: from the results of its cases to counts, a grade and JSON. Nothing here runs anything."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from durable_store_conformance.registry import Clause

Result = Literal["failed", "not evaluable", "not asked", "held"]
Grade = Literal["none", "base", "full"]

RESULTS: tuple[Result, ...] = ("failed", "not evaluable", "not asked", "held")
"""The worst one first: a clause comes to the worst of its cases."""

NOT_SHOWN = (
    "that a record survives a power cut: SIGKILL takes the process, and not what the system still holds in memory",
    "what happens when the storage itself fails: an answer is lost, a request lands late, a service is down",
    "that one wins among racers on several machines: all of these ran on one",
    "what a verb costs the storage: requests, flushes, bytes; nor whether it streams keys, or collects them all first",
    "that a record is still there after hours or days: a time to live of minutes outlasts the exam",
)
"""What no URL can show, and so no grade says."""

NOT_FOUND = "a fresh process does not find what another one has saved"
"""How a clause says so."""

_MOST_NAMED = 6
_FRESH = "DS-FRESH-01"
_UNSHARED = (
    f"{_FRESH}: {NOT_FOUND}: so it is with a store that lives in the memory of one process only, and with one that its"
    " processes do not share."
)


@dataclass(frozen=True)
class CaseResult:
    """What one case came to.

    Attributes:
        clause: the id of its clause.
        case: its name among the cases of the clause, `""` when that has one.
        message: what went wrong; empty when the case held.
    """

    clause: str
    case: str
    result: Result
    seconds: float = 0
    message: str = ""


@dataclass(frozen=True)
class ClauseResult:
    """What a clause came to: one result for each of its cases, in its order."""

    clause: Clause
    cases: tuple[CaseResult, ...]

    @property
    def result(self) -> Result:
        """The worst of its cases."""
        return _worst(self.cases).result

    @property
    def seconds(self) -> float:
        """What its cases took together."""
        return sum(case.seconds for case in self.cases)


@dataclass(frozen=True)
class Report:
    """What all clauses came to, in their order; `wanted` are the ids of those that were to be asked."""

    clauses: tuple[ClauseResult, ...]
    wanted: frozenset[str]
    not_shown: ClassVar = NOT_SHOWN

    @property
    def counts(self) -> dict[Result, int]:
        """How many clauses came to what."""
        return _counted(clause.result for clause in self.clauses)

    @property
    def case_counts(self) -> dict[Result, int]:
        """How many cases came to what."""
        return _counted(case.result for clause in self.clauses for case in clause.cases)

    @property
    def grade(self) -> Grade | None:
        """`full` if every clause held, `base` if all base clauses did, else `none`.

        None when the exam was sat in part only: no part of it has a grade. What is not evaluable is not held.
        """
        if self.counts["not asked"]:
            return None
        missed = self.missed
        if not missed:
            return "full"
        return "none" if any(clause.base for clause in missed) else "base"

    @property
    def missed(self) -> list[Clause]:
        """The clauses that were asked and did not hold."""
        return [each.clause for each in self.clauses if each.result in {"failed", "not evaluable"}]

    @property
    def status(self) -> int:
        """The exit status: 0 all that was to be asked held, 1 a clause failed, 3 it cannot be told."""
        if self.counts["failed"]:
            return 1
        return 0 if all(each.result == "held" for each in self.clauses if each.clause.id in self.wanted) else 3

    @property
    def verdict(self) -> str:
        """The grade and why it is that, in one line."""
        missed = [clause.id for clause in self.missed if clause.base or self.grade != "none"]
        more = f" and {len(missed) - _MOST_NAMED} more" if len(missed) > _MOST_NAMED else ""
        named = f"{', '.join(missed[:_MOST_NAMED])}{more}"
        match self.grade:
            case None:
                asked = len(self.clauses) - self.counts["not asked"]
                return f"no grade: the exam was sat in part, {asked} of {len(self.clauses)} clauses"
            case "full":
                return f"grade full: each of the {len(self.clauses)} clauses held"
            case "base":
                return f"grade base: every base clause held; these others did not: {named}"
            case "none":
                return f"grade none: base clauses did not hold: {named}"

    @property
    def remarks(self) -> list[str]:
        """What the results mean, where a name tells more than a number."""
        cases = [case for each in self.clauses if each.clause.id == _FRESH for case in each.cases]
        return [_UNSHARED for case in cases if case.result == "failed" and NOT_FOUND in case.message]

    def as_json(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """All of it, for programs, after what there is to say `about` the exam: its URL, its exit status …."""
        return {
            **about,
            "grade": self.grade,
            "verdict": self.verdict,
            "counts": self.counts,
            "case_counts": self.case_counts,
            "remarks": self.remarks,
            "not_shown": list(self.not_shown),
            "clauses": [_clause_as_json(each) for each in self.clauses],
        }


def report_of(
    clauses: Iterable[Clause], results: Iterable[CaseResult], wanted: Iterable[Clause] | None = None
) -> Report:
    """The report on these clauses.

    A case without a result was not asked. Of several results of one case the worst counts: what holds now and then
    does not hold.

    Args:
        clauses: all there are.
        results: in any order.
        wanted: those that were to be asked; by default all.
    """
    clauses = list(clauses)
    found: dict[tuple[str, str], list[CaseResult]] = {}
    for result in results:
        found.setdefault((result.clause, result.case), []).append(result)
    return Report(
        tuple(
            ClauseResult(
                clause,
                tuple(
                    _worst(found.get((clause.id, case), [CaseResult(clause.id, case, "not asked")]))
                    for case in clause.cases
                ),
            )
            for clause in clauses
        ),
        frozenset(clause.id for clause in (clauses if wanted is None else wanted)),
    )


def _worst(results: Iterable[CaseResult]) -> CaseResult:
    return min(results, key=lambda each: RESULTS.index(each.result))


def _counted(results: Iterable[Result]) -> dict[Result, int]:
    counter = Counter(results)
    return {"held": counter["held"], **{result: counter[result] for result in RESULTS}}


def _clause_as_json(each: ClauseResult) -> dict[str, Any]:
    clause = each.clause
    return {
        "id": clause.id,
        "group": clause.group.name,
        "name": clause.name,
        "promise": clause.promise,
        "needs": sorted(clause.needs),
        "base": clause.base,
        "result": each.result,
        "seconds": round(each.seconds, 3),
        "cases": [
            {"case": case.case, "result": case.result, "seconds": round(case.seconds, 3), "message": case.message}
            for case in each.cases
        ],
    }
