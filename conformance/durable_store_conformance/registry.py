"""The clauses of the exam: numbered promises, each with the plain function that examines it.

A clause asks for what it needs by the names of its parameters: those are the properties of `exam.Exam`, and beside them
the names of its `cases`. It is called with a store that nobody has written to, once for each case.
"""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, NamedTuple, cast

from durable_store import CheckpointKey

Need = Literal["another process", "a kill", "a race", "a fork"]

KEY = CheckpointKey("goal", 0, "agent-0")
"""The key of most clauses."""


class NotEvaluable(Exception):
    """This machine cannot tell whether the clause holds. That is never a pass."""


class Group(NamedTuple):
    """Clauses about one thing. Those in `base` are what one agent needs that is killed and goes on."""

    name: str
    about: str
    base: bool


GROUPS = {
    group.name: group
    for group in (
        Group("SAVE", "a record is created once, and kept byte for byte", base=True),
        Group("LATEST", "the highest step is found", base=True),
        Group("STEPS", "the steps are listed", base=True),
        Group("LOAD", "one record is read", base=True),
        Group("PRUNE", "steps are removed", base=True),
        Group("KEYS", "the keys are listed", base=True),
        Group("READ", "reads create nothing", base=True),
        Group("CLOSE", "a closed store says so", base=True),
        Group("ID", "any id is valid, and no two are one", base=True),
        Group("FRESH", "another process finds what one has saved", base=True),
        Group("KILL", "SIGKILL loses nothing that was acknowledged", base=True),
        Group("OUT", "storage out of reach is never empty storage", base=True),
        Group("DAMAGE", "damaged is never absent", base=True),
        Group("STORE", "checkpoints in, checkpoints out", base=True),
        Group("EPISODE", "attempts at one goal are kept apart", base=True),
        Group("RUN", "a run goes on from its last commit", base=True),
        Group("KEEP", "retention keeps within its bounds", base=True),
        Group("FENCE", "an old writer can do no harm", base=False),
        Group("RACE", "of any number of racers one wins", base=False),
        Group("READER", "readers beside writers", base=False),
        Group("THREAD", "threads share a store", base=False),
        Group("FORK", "a forked child uses what it inherits", base=False),
        Group("SIZE", "large records, long histories, many keys", base=False),
        Group("COST", "a run goes to its backend no more often than it must", base=False),
    )
}
"""By their names, in the order of the report."""


@dataclass(frozen=True)
class Clause:
    """One promise and how it is examined.

    Attributes:
        id: its number, `DS-SAVE-01`. It stays when others come and go.
        promise: what is promised, in the words of a docstring of durable_store.
        examine: raises an AssertionError, or an error of the store, where the promise does not hold.
        cases: the arguments of each case by its name; a clause without cases has one, `""`.
        needs: what it does beside calling verbs.
    """

    id: str
    promise: str
    examine: Callable[..., None]
    cases: Mapping[str, Mapping[str, Any]]
    needs: frozenset[Need]

    @property
    def name(self) -> str:
        """What is examined, in a few words."""
        return self.examine.__name__

    @property
    def group(self) -> Group:
        """What it is about."""
        return GROUPS[self.id.split("-")[1]]

    @property
    def asks_for(self) -> list[str]:
        """The parameters that are no case's."""
        given = next(iter(self.cases.values()))
        return [name for name in inspect.signature(self.examine).parameters if name not in given]

    @property
    def base(self) -> bool:
        """Whether a store that fails it is of no use even to one agent.

        Who wins a race concerns several. A fork is no need of one agent either, nor is it there on every platform.
        """
        return self.group.base and not self.needs & {"a race", "a fork"}


def clause(
    number: str, promise: str, *, needs: Need | tuple[Need, ...] = (), **cases: Mapping[str, Any] | Iterable[Any]
) -> Callable[[Callable[..., None]], Clause]:
    """Makes a function the clause of this number.

    Args:
        number: its id.
        promise: a part of a docstring of durable_store, word for word.
        needs: a kill, a race or a fork, or several; that it needs another process is seen from its parameters.
        cases: for a parameter, the values that it takes, by name or in their own words. Of several, each with each.
    """

    def of(examine: Callable[..., None]) -> Clause:
        found: set[Need] = {"another process"} if "another_process" in inspect.signature(examine).parameters else set()
        found.update((needs,) if isinstance(needs, str) else needs)
        return Clause(number, promise, examine, dict(_each_with_each(cases)), frozenset(found))

    return of


def clauses_in(*modules: ModuleType) -> list[Clause]:
    """The clauses of these modules, in the order of the report.

    Raises:
        ValueError: two have the same number, or one is of no group.
    """
    order = list(GROUPS)
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Clause)]
    if len({clause.id for clause in found}) != len(found):
        raise ValueError("two clauses have the same number")
    return sorted(found, key=lambda clause: (order.index(clause.group.name), clause.id))


def _each_with_each(cases: Mapping[str, Mapping[str, Any] | Iterable[Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    named = [[(name, parameter, value) for name, value in _by_name(of)] for parameter, of in cases.items()]
    for chosen in itertools.product(*named):
        yield "-".join(name for name, _, _ in chosen), {parameter: value for _, parameter, value in chosen}


def _by_name(values: Mapping[str, Any] | Iterable[Any]) -> Iterable[tuple[str, Any]]:
    if isinstance(values, Mapping):
        return cast("Mapping[str, Any]", values).items()
    return [(str(value), value) for value in values]
