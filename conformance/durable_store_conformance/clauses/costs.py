"""How often a run goes to its backend. What the backend then costs its service, a URL does not show."""

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from durable_store import Store
from durable_store.backend import Backend
from durable_store_conformance.registry import clause
from durable_store_conformance.work import state_of

COSTS = (
    "After its first commit it asks its backend for one save a commit and at most one prune for every `keep` commits,"
    " and between them for nothing."
)


class _Counting:
    """A backend that counts what it is asked for."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.asked: Counter[str] = Counter()

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        self.asked[verb] += 1
        return cast("Callable[..., Any]", getattr(self._backend, verb))


@clause("DS-COST-01", COSTS, keep=[1, 5, None])
def a_commit_is_one_save_and_retention_a_prune_for_every_keep_of_them(backend: Backend, keep: int | None) -> None:
    """In steady state, whatever the backend: each of them may be a request that somebody pays for."""
    counting = _Counting(backend)
    run = Store(cast("Backend", counting)).resume("goal", "agent-0", keep=keep)
    for turn in range(11):
        run.commit(state_of(turn))
    counting.asked.clear()
    for turn in range(11, 41):
        run.commit(state_of(turn))
    prunes = counting.asked.pop("prune", 0)
    assert counting.asked == {"save": 30}
    assert prunes <= (0 if keep is None else 30 // keep)


@clause("DS-COST-02", COSTS)
def a_run_that_does_nothing_asks_for_nothing(backend: Backend) -> None:
    """To look at its state, step and result is free; to resume a goal is a handful of reads."""
    counting = _Counting(backend)
    with Store(cast("Backend", counting)).resume("goal", "agent-0", initial={}) as run:
        run.commit(state_of(0))
    counting.asked.clear()
    with Store(cast("Backend", counting)).resume("goal", "agent-0") as run:
        assert counting.asked.total() <= 6, counting.asked
        assert "save" not in counting.asked
        counting.asked.clear()
        assert (run.state, run.step, run.finished, run.result, run.resumed) == (state_of(0), 0, False, None, True)
    assert counting.asked == {}
