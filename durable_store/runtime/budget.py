"""What a goal may cost, what it has cost, and the end of it when that is too much."""

import math
import time
from collections.abc import Mapping
from typing import Any

from durable_store.errors import DurableStoreError, InvalidArgument, shown

KINDS = ("input_tokens", "output_tokens", "cached_tokens", "dollars", "tool_calls", "wall_seconds")
"""What is counted. Seconds count themselves."""

_NOTHING: Mapping[str, Any] = {}


class BudgetExceeded(DurableStoreError):
    """A cap was exceeded. The last turn is committed: a run with a larger budget goes on from there.

    It stops a whole swarm, and all attempts of a best-of-N. Caps are looked at before each turn: one that an agent's
    last turn exceeds does not take away its result.
    """


class Budget:
    """Caps for a goal, and what it has spent: `Budget(dollars=5, wall_seconds=3600)`; what is not named has no cap.

    `run_goal` takes only the caps from the one that it is given. An agent's turn sees one of its own, `turn.budget`:
    what it adds there counts for its parent too, and so for the goal, whose caps are those that hold.

    Attributes:
        caps: the most of each kind; without those that have no cap.

    Raises:
        InvalidArgument: a kind that is not counted, or a cap that is no number of at least 0.
    """

    def __init__(self, **caps: float | None) -> None:
        self.caps = {kind: _checked(kind, cap) for kind, cap in caps.items() if cap is not None}
        self._spent: dict[str, float] = {}
        self._own: dict[str, float] = {}  # since the last boundary, and not by children
        self._at_boundary: dict[str, float] = {}
        self._parent: Budget | None = None
        self._is_told = False  # what a store says of it, this process has said
        self._before = 0.0  # seconds that earlier processes took
        self._since = time.monotonic()

    def __repr__(self) -> str:
        spent = ", ".join(
            f"{kind}={amount:g}" + (f" of {self.caps[kind]:g}" if kind in self.caps else "")
            for kind, amount in self.spent.items()
            if amount or kind in self.caps
        )
        return f"<Budget {spent}>"

    @property
    def spent(self) -> dict[str, float]:
        """What this agent and its children have spent of each kind, in all processes; seconds are the whole goal's."""
        return {**dict.fromkeys(KINDS, 0), **self._spent, "wall_seconds": self.seconds}

    @property
    def seconds(self) -> float:
        """How long the goal was worked on, by the monotonic clock; time in which no process ran is not counted."""
        if self._parent:
            return self._parent.seconds
        return self._before + time.monotonic() - self._since

    def add(self, **amounts: float) -> None:
        """Counts what was spent: `add(input_tokens=900, dollars=0.01)`.

        Raises:
            InvalidArgument: a kind that is not counted, or an amount that is no number of at least 0.
        """
        for kind, amount in amounts.items():
            if kind == "wall_seconds":
                raise InvalidArgument("wall_seconds count themselves")
            _checked(kind, amount)
        for kind, amount in amounts.items():
            self._own[kind] = self._own.get(kind, 0) + amount
            self._count(kind, amount)

    def over(self) -> str:
        """What the goal has spent beyond its caps, in words; empty if nothing."""
        if self._parent:
            return self._parent.over()
        spent = self.spent
        over = [
            f"{kind} {spent[kind]:.10g} of {cap:.10g}"
            for kind, cap in self.caps.items()
            if spent[kind] > cap and not math.isclose(spent[kind], cap)  # ten times 0.1 is 1
        ]
        return f"the budget is exceeded: {', '.join(over)}" if over else ""

    def child(self) -> "Budget":
        """One whose spending counts for this one too."""
        child = Budget()
        child._parent = self
        return child

    def snapshot(self, *, at_boundary: bool) -> dict[str, float]:
        """What a commit carries. Within a turn, without its children: they have their own, and are met again."""
        self._is_told = True
        if at_boundary:
            self._at_boundary, self._own = dict(self._spent), {}
        within = {
            kind: self._at_boundary.get(kind, 0) + self._own.get(kind, 0) for kind in {**self._at_boundary, **self._own}
        }
        return {**within, "wall_seconds": round(self.seconds, 3)}

    def restore(self, snapshot: Mapping[str, Any], *, paid: Mapping[str, Any] = _NOTHING) -> None:
        """Takes over what a snapshot says was spent by earlier processes; twice is as once.

        What was `paid` of it is counted by the parent already.
        """
        for kind in KINDS[:-1]:
            behind = snapshot.get(kind, 0) - self._at_boundary.get(kind, 0)
            if behind > 0:
                self._spent[kind] = self._spent.get(kind, 0) + behind
                self._at_boundary[kind] = self._at_boundary.get(kind, 0) + behind
                if self._parent:
                    self._parent._count(kind, behind - paid.get(kind, 0))  # noqa: SLF001 - of the same class
        top = self
        while top._parent:
            top = top._parent
        if not self._is_told:
            top._before = max(top._before, snapshot.get("wall_seconds", 0))  # noqa: SLF001 - of the same class

    def _count(self, kind: str, amount: float) -> None:
        self._spent[kind] = self._spent.get(kind, 0) + amount
        if self._parent:
            self._parent._count(kind, amount)  # noqa: SLF001 - of the same class


def fresh(budget: Budget | None) -> Budget:
    """One with the same caps that has spent nothing.

    Raises:
        InvalidArgument: it is no Budget.
    """
    if not isinstance(budget, Budget | None):
        raise InvalidArgument(f"budget must be a Budget, Budget(dollars=5), not {shown(budget)}")
    return Budget(**budget.caps) if budget else Budget()


def _checked(kind: str, amount: Any) -> float:
    if kind not in KINDS:
        raise InvalidArgument(f"a budget counts {', '.join(KINDS)}, not {kind!r}")
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < math.inf:
        raise InvalidArgument(f"{kind} must be a number of at least 0, not {shown(amount)}")
    return amount
