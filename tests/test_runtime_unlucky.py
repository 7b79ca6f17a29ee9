"""Agents whose processes, stores and siblings fail at the worst moment: nothing is repeated or lost unseen."""

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from durable_store import (
    CheckpointConflict,
    CheckpointKey,
    CheckpointNotFound,
    InvalidArgument,
    InvalidKey,
    InvalidState,
    Store,
    StoreUnavailable,
)
from durable_store.aio import AsyncStore
from durable_store.record import decode_header
from durable_store.runtime import (
    Agent,
    BestOfN,
    Budget,
    BudgetExceeded,
    Drifted,
    EffectUncertain,
    Turn,
    claims,
    run_goal,
    run_goal_best_of_n,
)
from durable_store_backends.memory import MemoryBackend
from durable_store_backends.sqlite import SqliteBackend
from tests.failing import Failing

KEY = CheckpointKey("g", 0, "o-0")
Act = Callable[[Turn], Awaitable[None]]


class Killed(Exception):
    """Ends the work of a process, as far as its store can see."""


@pytest.fixture
def backend() -> Failing:
    return Failing()


@pytest.fixture
def store(backend: Failing) -> Store:
    return Store(backend)


def goes(act: Act, store: Store | None, **options: Any) -> Any:
    return asyncio.run(run_goal("g", Agent("o", act), store=store, **options))


def attempts(make_agent: Callable[[int], Agent], n: int, store: Store, **options: Any) -> Any:
    options = {"score": itself, **options}
    return asyncio.run(run_goal_best_of_n("g", make_agent, n, store=store, **options))


def itself(result: Any) -> Any:
    return result


async def finishes(turn: Turn) -> None:
    turn.finish(turn.state)


# Which episode


def test_an_attempt_under_another_role_is_not_begun_again(store: Store) -> None:
    turns: list[int] = []

    def make_agent(_attempt: int) -> Agent:
        async def act(turn: Turn) -> None:
            turns.append(turn.number)
            if turn.number == 1:
                raise Killed

        return Agent(f"o-{secrets.token_hex(2)}", act)

    with pytest.raises(Killed):
        attempts(make_agent, 1, store)
    [episode] = store.episodes("g")
    with pytest.raises(CheckpointNotFound, match=f"attempt 0 at 'g' is run by '{episode.root}', not by 'o-"):
        attempts(make_agent, 1, store)
    assert turns == [0, 1]


def test_an_episode_that_another_role_has_started_is_no_attempts(store: Store) -> None:
    store.start_episode("g", root="planner-0")
    assert attempts(lambda _: Agent("o", finishes), 1, store, state=7).winner.episode_id == 1


def test_an_episode_started_for_any_run_is_not_taken(store: Store) -> None:
    store.start_episode("g")

    async def act(turn: Turn) -> None:
        await turn.spawn("helper", finishes)
        await turn.spawn("helper", finishes)
        turn.finish("both")

    got = goes(act, store)
    assert (got.result, got.episode_id) == ("both", 1)
    assert [(episode.root, episode.status) for episode in store.episodes("g")] == [("o-0", "finished"), ("", "running")]


def test_an_episode_of_runs_of_their_own_is_not_gone_on_with(store: Store) -> None:
    store.start_episode("g")
    store.resume("g", "o-0").commit({"by": "a loop"})
    with pytest.raises(CheckpointNotFound, match=r"episode 0 of goal 'g' was started without a root.*resume=False"):
        goes(finishes, store)
    assert goes(finishes, store, resume=False).episode_id == 1


def test_of_two_processes_one_goes_on_with_the_attempts(store: Store) -> None:
    """The other one has seen the attempt begun, or both could begin it, and one be refused before it acts."""
    acted: list[int] = []

    async def both() -> list[Any]:
        begun, both_act = asyncio.Event(), asyncio.Barrier(2)

        def make_agent(attempt: int) -> Agent:
            async def act(turn: Turn) -> None:
                acted.append(attempt)
                if attempt == 1:
                    begun.set()
                    await both_act.wait()
                turn.finish(attempt)

            return Agent("o", act)

        def process() -> "asyncio.Future[BestOfN]":
            return asyncio.ensure_future(run_goal_best_of_n("g", make_agent, 3, score=itself, store=store))

        old = process()
        await begun.wait()
        new = process()
        return list(await asyncio.gather(old, new, return_exceptions=True))

    came = asyncio.run(both())
    [conflict] = [each for each in came if isinstance(each, CheckpointConflict)]
    [best] = [each for each in came if isinstance(each, BestOfN)]
    assert "g/1/o-0" in str(conflict)
    assert best.winner.result == 2
    assert acted == [0, 1, 1, 2]
    assert attempts(lambda _: Agent("o", finishes), 3, store).winner == best.winner
    assert [episode.status for episode in store.episodes("g")] == ["finished"] * 3


def test_an_attempt_keeps_its_episode_whoever_began_it_first() -> None:
    """Of two processes that give an attempt an episode at the same time, the slower takes that of the other."""

    class Overtaken(MemoryBackend):
        def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
            if key.checkpoint_id == claims.ATTEMPTS_ID and not others:
                others.append(Store(self).start_episode("g", root="o-0"))
                assert claims.claim(self, "g", 0, others[0]) == others[0]
            return super().save(key, step, record)

    others: list[int] = []
    acted: list[int] = []

    async def act(turn: Turn) -> None:
        acted.append(turn.context.episode_id)
        turn.finish()

    store = Store(Overtaken())
    assert attempts(lambda _: Agent("o", act), 1, store, score=bool).winner.episode_id == 1
    assert acted == others == [1]
    assert [episode.status for episode in store.episodes("g")] == ["finished", "deleted"]


def test_attempts_that_another_process_has_finished_meanwhile_are_neither_run_nor_forgotten(store: Store) -> None:
    acted: list[int] = []

    def make_agent(attempt: int) -> Agent:
        async def act(turn: Turn) -> None:
            acted.append(attempt)
            turn.budget.add(dollars=1)
            turn.finish(attempt)

        return Agent("o", act)

    async def both() -> list[Any]:
        scoring, awake = asyncio.Event(), asyncio.Event()

        async def slow_score(result: int) -> int:
            scoring.set()
            await awake.wait()
            return result

        old = asyncio.ensure_future(run_goal_best_of_n("g", make_agent, 3, score=slow_score, store=store))
        await scoring.wait()
        new = await run_goal_best_of_n("g", make_agent, 3, score=itself, store=store)
        awake.set()
        return [await old, new]

    old, new = asyncio.run(both())
    assert acted == [0, 1, 2]
    assert old.attempts == new.attempts
    assert old.budget.spent["dollars"] == new.budget.spent["dollars"] == 3


def test_an_attempt_that_an_operator_has_closed_as_failed_is_told_and_the_others_go_on(store: Store) -> None:
    async def fails(turn: Turn) -> None:
        if turn.context.episode_id == 0:
            raise Killed
        turn.finish(7)

    assert attempts(lambda _: Agent("o", fails), 2, store).winner.number == 1
    store.resume("g", "o-0", episode_id=0).finish(error="hopeless")
    best = attempts(lambda _: Agent("o", fails), 2, store)
    assert (best.winner.number, str(best.attempts[0].error)) == (1, "attempt 0 was closed as failed: 'hopeless'")


def test_attempts_outlive_an_episode_that_is_deleted(store: Store) -> None:
    attempts(lambda _: Agent("o", finishes), 2, store, state=1)
    store.delete("g", episode_id=0)
    with pytest.raises(CheckpointNotFound, match="episode 0 of goal 'g', which has an attempt, was deleted"):
        attempts(lambda _: Agent("o", finishes), 2, store, state=1)
    store.delete("g")
    assert attempts(lambda _: Agent("o", finishes), 1, store, state=1).winner.episode_id == 2


# Effects


def test_an_effect_whose_intent_was_not_written_is_the_same_one_when_tried_again(
    store: Store, backend: Failing
) -> None:
    sent: list[str] = []

    async def act(turn: Turn) -> None:
        if turn.number == 0:
            return
        backend.full = not sent
        try:
            await turn.once("send", sent.append, "x")
        except StoreUnavailable:
            backend.full = False
            await turn.once("send", sent.append, "x")
            raise Killed from None
        turn.finish()

    with pytest.raises(Killed):
        goes(act, store)
    goes(act, store)
    assert sent == ["x"]


def test_an_effect_that_is_tried_again_takes_no_others_place(store: Store, backend: Failing) -> None:
    sent: list[str] = []
    asked: list[str] = []

    def look(_name: str, arguments: tuple[Any, ...]) -> None:
        asked.append(arguments[0])

    async def act(turn: Turn) -> None:
        for to in "ab":
            backend.full = to == "a" and not sent
            with suppress(StoreUnavailable):
                await turn.once("send", sent.append, to, on_uncertain=look)
        if not asked:
            backend.full = False
            raise Killed
        turn.finish()

    with pytest.raises(Killed):
        goes(act, store)
    goes(act, store, on_drift="raise")
    assert (sent, asked) == (["b"], ["a"])


def test_what_was_tried_again_with_other_arguments_is_uncertain_when_it_comes_first(
    store: Store, backend: Failing
) -> None:
    sent: list[int] = []
    lives = [0]

    async def act(turn: Turn) -> None:
        backend.full = lives == [0]
        try:
            await turn.once("send", sent.append, 1)
        except StoreUnavailable:
            backend.full = False
            await turn.once("send", sent.append, 2)
        raise Killed

    async def first(turn: Turn) -> None:
        if turn.number:
            await act(turn)

    with pytest.raises(Killed):
        goes(first, store)
    lives[0] = 1
    with pytest.raises(EffectUncertain):
        goes(first, store)
    assert sent == [2]


def test_of_effects_at_the_same_time_no_intent_is_overtaken(tmp_path: Path) -> None:
    journals: list[list[int]] = []

    class TakesDown(SqliteBackend):
        def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
            meta = decode_header(record, key, step).meta
            if key.checkpoint_id.startswith("o-0.helper") and "begun" in meta:
                journals.append([each["number"] for each in meta["begun"]])
            return super().save(key, step, record)

    async def child(turn: Turn) -> None:
        await turn.gather(*(turn.once("send", str, n) for n in range(100)))
        turn.finish()

    async def act(turn: Turn) -> None:
        await turn.spawn("helper", child)
        turn.finish()

    with Store(TakesDown(tmp_path / "x.db")) as store:
        goes(act, store)
    assert journals == [list(range(n + 1)) for n in range(100)]


def test_an_effect_belongs_to_its_turn(store: Store) -> None:
    late: list[Awaitable[Any]] = []

    async def act(turn: Turn) -> None:
        if turn.number == 0:
            late.append(turn.once("send", str, 7))
        else:
            with pytest.raises(InvalidArgument, match="the turn that asked for 'send' is over"):
                await late[0]
            turn.finish()

    goes(act, store)


def test_a_recorded_result_that_cannot_be_read_now_is_read_later(store: Store, backend: Failing) -> None:
    sent: list[str] = []
    lives = [0]

    async def act(turn: Turn) -> None:
        backend.away = lives[0]
        try:
            await turn.once("send", sent.append, "x")
        except StoreUnavailable:
            await turn.once("send", sent.append, "x")
        if lives == [0]:
            raise Killed
        turn.finish()

    with pytest.raises(Killed):
        goes(act, store)
    lives[0] = 1
    goes(act, store)
    assert sent == ["x"]


def test_an_effect_that_is_cancelled_before_it_begins_is_none(store: Store) -> None:
    sent: list[str] = []
    lives = [0]

    async def act(turn: Turn) -> None:
        if lives == [0]:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(turn.once("send", sent.append, "x"), 0)
        await turn.once("send", sent.append, "x")
        if lives == [0]:
            raise Killed
        turn.finish()

    with pytest.raises(Killed):
        goes(act, store)
    lives[0] = 1
    goes(act, store)
    assert sent == ["x"]


def test_an_effect_whose_result_cannot_be_recorded_is_uncertain(store: Store, backend: Failing) -> None:
    def send() -> None:
        backend.full = True

    async def act(turn: Turn) -> None:
        await turn.once("send", send)

    with pytest.raises(EffectUncertain) as caught:
        goes(act, store)
    assert isinstance(caught.value.__cause__, StoreUnavailable)


def test_nothing_is_begun_within_an_effect_but_another_goal(store: Store) -> None:
    async def act(turn: Turn) -> None:
        async def another() -> Any:
            return (await run_goal("another", Agent("o", calls_once), store=turn.context.store)).result

        async def nested() -> None:
            await turn.once("inner", print)

        async def child() -> None:
            await turn.spawn("helper", finishes)

        for effect in (nested, child):
            with pytest.raises(InvalidArgument, match="within the effect 'outer' nothing else is begun"):
                await turn.once("outer", effect)
        turn.finish(await turn.once("goal", another))

    async def calls_once(turn: Turn) -> None:
        turn.finish(await turn.once("inner", str, 7))

    assert goes(act, store).result == "7"


def test_an_effects_result_stays_until_its_turn_is_committed(store: Store, backend: Failing) -> None:
    sent: list[str] = []
    lives = [0]

    async def act(turn: Turn) -> None:
        if turn.number == 0:
            await turn.once("send", sent.append, "x")
            backend.full = lives == [0]  # but it removes what it is told to
        elif lives == [0]:
            raise Killed
        else:
            turn.finish()

    with pytest.raises(Killed):
        goes(act, store, on_store_error="continue")
    backend.full, lives[0] = False, 1
    goes(act, store, on_store_error="continue")
    assert sent == ["x"]


def test_an_effect_that_is_cancelled_while_its_intent_is_written_is_done(store: Store) -> None:
    sent: list[str] = []

    async def act(turn: Turn) -> None:
        sending = asyncio.ensure_future(turn.once("send", sent.append, "x"))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
        raise Killed

    async def again(turn: Turn) -> None:
        await turn.once("send", sent.append, "x")
        turn.finish()

    with pytest.raises(Killed):
        goes(act, store)
    goes(again, store)
    assert sent == ["x"]


@pytest.mark.parametrize("stopped_by", ["a cap", "an error"])
def test_an_effect_under_way_comes_to_its_end_when_a_sibling_stops_the_swarm(store: Store, stopped_by: str) -> None:
    sent: list[str] = []
    calm: list[str] = []

    async def spends(turn: Turn) -> None:
        await asyncio.sleep(0.02)
        if stopped_by == "a cap":
            turn.budget.add(dollars=5)
        elif not calm:
            raise Killed
        if turn.number == 1:
            turn.finish()

    async def slowly(to: str) -> None:
        await asyncio.sleep(0.1)
        sent.append(to)

    async def sends(turn: Turn) -> None:
        await turn.once("send", slowly, "x")
        turn.finish()

    async def act(turn: Turn) -> None:
        await turn.gather(turn.spawn("spender", spends), turn.spawn("sender", sends))
        turn.finish("done")

    with pytest.raises((BudgetExceeded, Killed)):
        goes(act, store, budget=Budget(dollars=4))
    calm.append("now")
    assert goes(act, store, budget=Budget(dollars=400)).result == "done"
    assert sent == ["x"]


def test_children_of_a_superseded_orchestrator_do_nothing_more_in_the_world(store: Store) -> None:
    sent: list[int] = []
    busy = asyncio.Event()

    async def child(turn: Turn) -> None:
        await asyncio.sleep(0.005)
        await turn.once("send", sent.append, turn.number)
        if turn.number == 2:
            busy.set()

    async def old(turn: Turn) -> None:
        await turn.spawn("helper", child)

    async def new(turn: Turn) -> None:
        turn.finish("another way, without children")

    async def both() -> Any:
        first = asyncio.ensure_future(run_goal("g", Agent("o", old), store=store))
        await busy.wait()
        await run_goal("g", Agent("o", new), store=store)
        done = len(sent)
        [error] = await asyncio.gather(first, return_exceptions=True)
        return error, done

    error, done = asyncio.run(both())
    assert isinstance(error, CheckpointConflict)
    assert len(sent) <= done + 1  # one may have been called already


@pytest.mark.parametrize("away", ["damaged", "cancelled"])
def test_an_orchestrator_is_not_superseded_by_itself(store: Store, backend: Failing, away: str) -> None:
    """Nor by a damaged record that it has passed over."""
    if away == "damaged":
        with store.resume("g", "o-0") as run:
            run.commit(None, meta={"turn": 0})
            run.commit(None, meta={"turn": 1})
        backend.prune(KEY, [1])
        backend.save(KEY, 1, b"damaged")

    async def child(turn: Turn) -> None:
        turn.finish(await turn.once("send", str, 7))

    async def act(turn: Turn) -> None:
        if away == "cancelled":
            sending = asyncio.ensure_future(turn.once("send", asyncio.sleep, 0))
            await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait([sending])
        turn.finish(await turn.spawn("helper", child))

    assert goes(act, store).result == "7"


@pytest.mark.parametrize("who", ["children", "attempts"])
def test_all_are_stopped_together_however_often_their_goal_is_cancelled(store: Store, who: str) -> None:
    ended: list[int] = []
    both_act = asyncio.Barrier(3)

    async def act(turn: Turn) -> None:
        try:
            await both_act.wait()
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(0.02)
            ended.append(turn.number)
            raise

    async def sends_out(turn: Turn) -> None:
        await turn.gather(turn.spawn("one", act), turn.spawn("two", act))

    def goal() -> Any:
        if who == "children":
            return run_goal("g", Agent("o", sends_out), store=store)
        return run_goal_best_of_n("g", lambda _: Agent("o", act), 2, score=itself, store=store, concurrency=2)

    async def use() -> None:
        under_way = asyncio.ensure_future(goal())
        await both_act.wait()
        for _ in range(3):
            under_way.cancel()
            await asyncio.sleep(0.001)
        with pytest.raises(asyncio.CancelledError):
            await under_way
        assert ended == [0, 0]

    asyncio.run(use())


def test_an_id_without_room_for_its_effects_is_refused_before_anything_is_done(store: Store) -> None:
    async def act(_turn: Turn) -> None:
        raise Killed

    with pytest.raises(InvalidKey, match=r"'r.*takes 202 bytes"):
        asyncio.run(run_goal("g", Agent("r" * 195, act), store=store))


# A store that comes back


def test_a_store_that_misses_one_request_at_the_start_is_asked_again(store: Store, backend: Failing) -> None:
    sent: list[int] = []

    async def act(turn: Turn) -> None:
        await turn.once("send", sent.append, turn.number)
        if turn.number == 2 and len(sent) == 3 and not backend.full:
            backend.full = True
            raise Killed
        if turn.number == 3:
            turn.finish()

    with pytest.raises(Killed):
        goes(act, store, on_store_error="continue")
    backend.full, backend.away = False, 1
    sent.append(-1)
    got = goes(act, store, on_store_error="continue")
    assert (got.episode_id, got.turns, got.store_errors) == (0, 4, 1)
    assert sent == [0, 1, 2, -1, 3]


def test_effects_of_work_begun_without_its_past_are_reported(store: Store, backend: Failing) -> None:
    sent: list[str] = []

    async def first(turn: Turn) -> None:
        await turn.once("send", sent.append, "x")
        raise Killed

    with pytest.raises(Killed):
        goes(first, store)

    async def again(turn: Turn) -> None:
        backend.away = 0
        if turn.number:
            await turn.once("send", sent.append, "x")
            turn.finish()

    for _ in range(2):  # the second one goes on in the episode of the first
        backend.away = 9 if len(store.episodes("g")) == 1 else 0
        with pytest.raises(EffectUncertain):
            goes(again, store, on_store_error="continue")
    assert sent == ["x"]

    def look(_name: str, _arguments: tuple[Any, ...]) -> str:
        return "it was sent"

    async def looks(turn: Turn) -> None:
        turn.finish(await turn.once("send", sent.append, "x", on_uncertain=look))

    assert goes(looks, store).result == "it was sent"


def test_effects_in_a_place_of_ones_own_stay_uncertain_behind_the_next_boundary(store: Store, backend: Failing) -> None:
    sent: list[str] = []
    lives = [0]

    async def act(turn: Turn) -> None:
        if lives == [0]:
            await turn.once("send", sent.append, "x")
            raise Killed
        if lives == [1]:
            backend.away = 0
            if turn.number == 2:
                raise Killed
        elif turn.number == 2:
            await turn.once("send", sent.append, "x")

    for away, error in ((0, Killed), (9, Killed), (0, EffectUncertain)):
        backend.away = away
        with pytest.raises(error):
            goes(act, store, on_store_error="continue")
        lives[0] += 1
    assert sent == ["x"]


def test_a_place_of_ones_own_is_looked_for_once(store: Store, backend: Failing) -> None:
    async def act(turn: Turn) -> None:
        backend.away = 0
        await turn.gather(*(turn.once("send", str, n) for n in range(4)))
        turn.finish()

    backend.away = 9
    goes(act, store, on_store_error="continue")
    assert [episode.status for episode in store.episodes("g")] == ["finished"]


def test_an_episode_begun_on_purpose_has_effects_that_are_certain(store: Store, backend: Failing) -> None:
    goes_on = store.resume("g", "o-0")
    goes_on.commit({})

    async def act(turn: Turn) -> None:
        backend.away = 0
        if turn.number:
            turn.finish(await turn.once("send", str, 7))

    backend.away = 9
    got = goes(act, store, on_store_error="continue", resume=False)
    assert (got.result, got.episode_id) == ("7", 1)


@pytest.mark.parametrize("away", [1, 2])
def test_a_store_that_is_back_before_the_first_turn_is_gone_on_with(store: Store, backend: Failing, away: int) -> None:
    numbers: list[int] = []

    async def act(turn: Turn) -> None:
        numbers.append(turn.number)
        if turn.number == 2 and len(numbers) == 3:
            raise Killed
        if turn.number == 3:
            turn.finish()

    with pytest.raises(Killed):
        goes(act, store)
    backend.away = away
    goes(act, store, on_store_error="continue")
    assert numbers == ([0, 1, 2, 2, 3] if away == 1 else [0, 1, 2, 0, 1, 2, 3])


def test_children_find_no_place_before_their_orchestrator_has_one(store: Store, backend: Failing) -> None:
    async def act(turn: Turn) -> None:
        backend.away = 0
        await turn.spawn("helper", finishes)
        if turn.number == 1:
            turn.finish("done")

    backend.away = 9
    got = goes(act, store, on_store_error="continue")
    assert got.result == "done"
    assert [(episode.root, episode.status) for episode in store.episodes("g")] == [("o-0", "finished")]


def test_children_go_on_where_nothing_can_be_written(store: Store, backend: Failing) -> None:
    backend.full = True

    async def act(turn: Turn) -> None:
        turn.finish(await turn.gather(*(turn.spawn("helper", finishes, n) for n in range(3))))

    assert goes(act, store, on_store_error="continue").result == [0, 1, 2]


def test_errors_of_one_cause_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Full(MemoryBackend):
        requests = 0

        def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
            self.requests += 1
            if key.checkpoint_id == "o-0" and step:
                raise StoreUnavailable(f"request {self.requests} failed") from OSError(28, "No space left on device")
            return super().save(key, step, record)

    async def act(turn: Turn) -> None:
        if turn.number == 4:
            turn.finish()

    assert goes(act, Store(Full()), on_store_error="continue").store_errors == 5
    assert len([line for line in caplog.messages if "not kept" in line]) == 1


# Money


@pytest.mark.parametrize("killed", [False, True])
def test_a_named_child_that_is_met_again_in_a_later_turn_is_paid_once(store: Store, killed: bool) -> None:  # noqa: FBT001
    lives = [0]

    async def child(turn: Turn) -> None:
        turn.budget.add(dollars=5)
        if turn.number == 1:
            turn.finish()

    async def act(turn: Turn) -> None:
        await turn.spawn("helper", child, name="one")
        if turn.number == 1 and killed and lives == [0]:
            raise Killed
        if turn.number == 2:
            turn.finish()

    if killed:
        with pytest.raises(Killed):
            goes(act, store)
        lives[0] += 1
    assert goes(act, store).budget.spent["dollars"] == 10


def test_a_named_child_that_is_tried_again_in_its_turn_is_paid_once(store: Store) -> None:
    async def child(turn: Turn) -> None:
        turn.budget.add(dollars=5)
        if turn.number == 1:
            if turn.state.pop("fails", None):
                raise Killed
            turn.finish()
        turn.state = {} if turn.state == {"again": 1} else {"fails": 1}

    async def act(turn: Turn) -> None:
        with pytest.raises(Killed):
            await turn.spawn("helper", child, {}, name="one")
        assert turn.budget.spent["dollars"] == 10
        with pytest.raises(Killed):
            await turn.spawn("helper", child, {}, name="one")
        turn.finish()

    assert goes(act, store).budget.spent["dollars"] == 15


def test_the_clock_counts_a_child_that_is_met_again_once(store: Store) -> None:
    async def child(turn: Turn) -> None:
        await asyncio.sleep(0.05)
        turn.finish()

    async def act(turn: Turn) -> None:
        for _ in range(5):
            await turn.spawn("helper", child, name="one")
        turn.finish()

    began = time.monotonic()
    assert goes(act, store).budget.seconds <= time.monotonic() - began


def test_the_clock_goes_on_from_the_latest_of_what_was_committed() -> None:
    budget = Budget()
    budget.restore({"wall_seconds": 100})
    time.sleep(0.05)
    budget.child().restore({"wall_seconds": 105})
    assert 105.05 <= budget.seconds < 110


def test_what_later_attempts_have_spent_counts_for_an_earlier_one_that_goes_on(store: Store) -> None:
    lives = [0]

    def make_agent(attempt: int) -> Agent:
        async def act(turn: Turn) -> None:
            if attempt == 0 and lives == [0]:
                raise Killed
            turn.budget.add(dollars=1)
            if turn.number == 7:
                turn.finish(attempt)

        return Agent("o", act)

    budget = Budget(dollars=10)
    assert attempts(make_agent, 2, store, budget=budget).budget.spent["dollars"] == 8
    lives[0] += 1
    with pytest.raises(BudgetExceeded, match="dollars 11 of 10"):
        attempts(make_agent, 2, store, budget=budget)
    assert attempts(make_agent, 2, store, budget=Budget(dollars=20)).budget.spent["dollars"] == 16


def test_the_cap_of_a_goal_within_a_child_stops_that_goal_alone(store: Store) -> None:
    async def spends(turn: Turn) -> None:
        turn.budget.add(dollars=9)

    async def child(_turn: Turn) -> None:
        await run_goal("another", Agent("i", spends), budget=Budget(dollars=1))

    async def act(turn: Turn) -> None:
        with pytest.raises(BudgetExceeded, match="dollars 9 of 1"):
            await turn.spawn("helper", child)
        turn.finish("went on")

    assert goes(act, store).result == "went on"


# Scores, results, fingerprints


def test_a_score_that_raises_is_its_attempts_and_asked_for_again(store: Store) -> None:
    judge = [ValueError("no judge")]

    def score(result: int) -> int:
        if result == 1 and judge:
            raise judge[0]
        return result

    def make_agent(attempt: int) -> Agent:
        async def act(turn: Turn) -> None:
            turn.finish(attempt)

        return Agent("o", act)

    for _ in range(2):
        best = attempts(make_agent, 2, store, score=score)
        assert (best.winner.number, best.attempts[1].error, best.attempts[1].result) == (0, judge[0], 1)
    judge.clear()
    assert attempts(make_agent, 2, store, score=score).winner.number == 1


def test_a_result_that_is_too_large_is_refused_where_it_is_given(store: Store) -> None:
    async def act(turn: Turn) -> None:
        with pytest.raises(InvalidState, match="belong in the state"):
            turn.finish("x" * 33_000)
        turn.finish("short")

    assert goes(act, None).result == goes(act, store).result == "short"


def test_a_fingerprint_outlives_a_start_without_one_and_is_not_changed_from_outside(store: Store) -> None:
    made_of = {"model": "a"}

    async def act(turn: Turn) -> None:
        made_of["model"] = "changed meanwhile"
        if turn.number:
            raise Killed

    with pytest.raises(Killed):
        goes(act, store, fingerprint=made_of)
    with pytest.raises(Killed):
        goes(act, store)
    with pytest.raises(Drifted, match="model was 'a' and is 'b'"):
        goes(act, store, fingerprint={"model": "b"}, on_drift="raise")


def test_drift_is_told_also_when_the_store_was_asked_twice(store: Store, backend: Failing) -> None:
    async def fails(_turn: Turn) -> None:
        raise Killed

    with pytest.raises(Killed):
        goes(fails, store, fingerprint="a")
    backend.away = 1
    with pytest.raises(Drifted):
        goes(fails, store, fingerprint="b", on_drift="raise", on_store_error="continue")


def test_a_fingerprint_too_large_for_every_commit_is_refused(store: Store) -> None:
    with pytest.raises(InvalidArgument, match="the most is 16384: a digest says as much"):
        goes(finishes, store, fingerprint="x" * 20_000)


def test_a_childs_state_is_the_same_in_another_order(store: Store) -> None:
    given = [{"a": 1, "b": 2}]

    async def act(turn: Turn) -> None:
        await turn.spawn("helper", finishes, given[-1])
        if len(given) == 1:
            raise Killed
        turn.finish()

    with pytest.raises(Killed):
        goes(act, store)
    given.append({"b": 2, "a": 1})
    goes(act, store, on_drift="raise")


# Coroutines


def test_a_closed_store_says_so_and_can_be_closed_again(store: Store) -> None:
    async def use() -> None:
        threads = AsyncStore(store)
        await threads.close()
        await threads.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await threads.latest(KEY)

    asyncio.run(use())


def test_a_forked_child_has_threads_of_its_own(store: Store) -> None:
    threads = AsyncStore(store)

    async def look() -> None:
        assert await threads.latest(KEY) is None

    asyncio.run(look())
    child = os.fork()
    if not child:
        asyncio.run(asyncio.wait_for(look(), 10))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_run_for_coroutines_has_all_that_a_run_has(store: Store) -> None:
    async def use() -> None:
        run = await AsyncStore(store).resume("g", "o-0", keep=7)
        assert (run.key, run.keep, run.step, run.root, run.resumed, run.skipped) == (KEY, 7, -1, "o-0", False, ())
        assert run.writer == run.run.writer

    asyncio.run(use())
