"""Agents, children, attempts, effects and budgets: what is promised of each, killed and unkilled."""

import asyncio
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from durable_store import (
    CheckpointConflict,
    CheckpointKey,
    CheckpointNotFound,
    InvalidArgument,
    InvalidState,
    Store,
    StoreUnavailable,
    open_store,
)
from durable_store.aio import AsyncStore
from durable_store.runtime import (
    Agent,
    Budget,
    BudgetExceeded,
    Drifted,
    EffectUncertain,
    SwarmContext,
    Turn,
    run_goal,
    run_goal_best_of_n,
)
from durable_store_backends.memory import MemoryBackend
from tests.failing import Failing

ROOT = Path(__file__).parent.parent
KEY = CheckpointKey("g-42", 0, "orchestrator-0")


@pytest.fixture
def store() -> Store:
    return Store(MemoryBackend())


@pytest.fixture(params=["files", "sqlite", "moto"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a store that processes share."""
    if request.param == "moto":
        return str(request.getfixturevalue("moto_server").url(tmp_path.name))
    return f"file://{tmp_path}/store" if request.param == "files" else f"sqlite:///{tmp_path}/store.db"


def lives(scenario: str, url: str, die: str = "", **environment: str) -> list[dict[str, Any]]:
    """What a process says until it ends, or is killed where it is told to be."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.agents", scenario, url, die],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        timeout=100,
        check=False,
    )
    assert ran.returncode == (-9 if die else 0)
    return [json.loads(line) for line in ran.stdout.splitlines()]


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


async def three_turns(turn: Turn) -> None:
    turn.state["seen"].append(turn.number)
    if turn.number == 2:
        turn.finish({"seen": turn.state["seen"]})


def goes(act: Callable[[Turn], Awaitable[None]], store: Any = None, **options: Any) -> Any:
    """What comes of `run_goal` with this act."""
    options.setdefault("state", {"seen": []})
    return run(run_goal("g-42", Agent("orchestrator", act), store=store, **options))


# Agents


def test_a_fresh_agent_with_another_random_name_resumes(url: str) -> None:
    said = [lives("turns", url, "turn 1"), lives("turns", url, "turn 3"), lives("turns", url)]
    names = [{line["name"] for line in lines if line["what"] == "turn"} for lines in said]
    assert [len(each) for each in names] == [1, 1, 1]
    assert len({name for each in names for name in each}) == 3
    assert [[line["number"] for line in lines if line["what"] == "turn"] for lines in said] == [
        [0, 1],
        [1, 2, 3],
        [3, 4],
    ]
    assert all(line["state"]["seen"] == list(range(line["number"])) for lines in said for line in lines[:-1])
    got = said[-1][-1]
    assert (got["result"], got["turns"], got["resumed_from"]) == ({"seen": [0, 1, 2, 3, 4]}, 5, 3)
    with open_store(url) as store:
        assert list(store.keys()) == [KEY]
        assert [(episode.root, episode.status) for episode in store.episodes("g-42")] == [
            ("orchestrator-0", "finished")
        ]


def test_nothing_is_kept_under_a_name() -> None:
    agents = [Agent("orchestrator", three_turns) for _ in range(2)]
    assert agents[0].checkpoint_id == agents[1].checkpoint_id == "orchestrator-0"
    assert agents[0].name != agents[1].name
    assert all(agent.name.startswith("orchestrator-0-") for agent in agents)
    assert Agent("critic", three_turns, depth=2).checkpoint_id == "critic-2"


def test_a_turns_state_is_committed_before_the_next_begins(store: Store) -> None:
    there: list[Any] = []

    async def act(turn: Turn) -> None:
        latest = store.latest(KEY)
        there.append(latest and latest.state)
        await three_turns(turn)

    got = goes(act, store)
    assert there == [{"seen": []}, {"seen": [0]}, {"seen": [0, 1]}]
    latest = store.latest(KEY)
    assert latest is not None
    assert latest.state == got.result == {"seen": [0, 1, 2]}
    assert (got.episode_id, got.turns, got.resumed_from, got.store_errors) == (0, 3, None, 0)


def test_disabled_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def act(turn: Turn) -> None:
        assert isinstance(turn.context, SwarmContext)
        assert (turn.context.store, turn.context.episode_id) == (None, 0)
        assert await turn.once("effect", lambda: 42) == 42
        assert await turn.spawn("helper", three_turns, {"seen": []}) == {"seen": [0, 1, 2]}
        await three_turns(turn)

    got = goes(act)
    assert (got.result, got.turns, got.resumed_from) == ({"seen": [0, 1, 2]}, 3, None)
    assert goes(act).resumed_from is None
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_act_is_raised_and_calling_again_resumes_at_the_last_boundary(store: Store) -> None:
    fails = [True]

    async def act(turn: Turn) -> None:
        await three_turns(turn)
        if turn.number == 1 and fails.pop():
            raise RuntimeError("out of tokens")

    with pytest.raises(RuntimeError, match="out of tokens"):
        goes(act, store)
    assert [episode.status for episode in store.episodes("g-42")] == ["running"]
    fails.append(False)
    got = goes(act, store)
    assert (got.result, got.turns, got.resumed_from, got.episode_id) == ({"seen": [0, 1, 2]}, 3, 1, 0)


def test_a_checkpoint_of_episode_1_is_not_picked_up_by_episode_2(store: Store) -> None:
    for attempt in range(3):
        got = goes(three_turns, store)
        assert (got.episode_id, got.resumed_from, got.result) == (attempt, None, {"seen": [0, 1, 2]})
    assert [episode.status for episode in store.episodes("g-42")] == ["finished"] * 3


def test_an_episode_that_is_not_to_be_resumed_is_left_as_it_is(store: Store) -> None:
    async def fails(turn: Turn) -> None:
        turn.state["seen"].append("failed")
        if turn.number == 1:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        goes(fails, store)
    got = goes(three_turns, store, resume=False)
    assert (got.episode_id, got.resumed_from, got.result) == (1, None, {"seen": [0, 1, 2]})
    latest = store.latest(KEY)
    assert latest is not None
    assert latest.state == {"seen": ["failed"]}
    assert [episode.status for episode in store.episodes("g-42")] == ["finished", "running"]


def test_a_goal_begun_under_another_id_is_not_begun_again(store: Store) -> None:
    store.start_episode("g-42", root="planner-0")
    with pytest.raises(CheckpointNotFound, match="planner-0"):
        goes(three_turns, store)


def test_a_state_that_json_cannot_hold_names_its_path(store: Store) -> None:
    async def act(turn: Turn) -> None:
        turn.state["seen"].append({1, 2})

    with pytest.raises(InvalidState, match=r"\$\.seen\[0\]"):
        goes(act, store)


def test_too_many_turns_end_it_and_a_larger_cap_goes_on(store: Store) -> None:
    async def act(turn: Turn) -> None:
        await three_turns(turn)

    with pytest.raises(BudgetExceeded, match="2 turns"):
        run(run_goal("g-42", Agent("orchestrator", act, max_turns=2), store=store, state={"seen": []}))
    assert goes(act, store).resumed_from == 2


@pytest.mark.parametrize("role", ["", "a.b", None, 7])
def test_a_role_that_cannot_be_is_refused(role: Any) -> None:
    with pytest.raises(InvalidArgument, match="role"):
        Agent(role, three_turns)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"role": "x" * 300}, "302 bytes"),
        ({"depth": -1}, "depth"),
        ({"max_turns": 0}, "max_turns"),
        ({"max_turns": "5"}, "'5'"),
    ],
)
def test_an_agent_that_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    given: dict[str, Any] = {"role": "a", "act": three_turns, **options}
    with pytest.raises(InvalidArgument, match=told):
        Agent(**given)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"on_drift": "ignore"}, "on_drift is warn or raise, not 'ignore'"),
        ({"on_store_error": "ignore"}, "on_store_error is raise or continue"),
        ({"store": "sqlite:///x.db"}, r"not 'sqlite:///x.db': open_store\(url\) makes one"),
        ({"budget": 5}, r"budget must be a Budget, Budget\(dollars=5\), not 5"),
        ({"fingerprint": {1}}, "fingerprint: set"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        goes(three_turns, **options)


def test_who_works_on_a_goal_is_an_agent() -> None:
    somebody: Any = "orchestrator"
    with pytest.raises(InvalidArgument, match="agent must be an Agent"):
        run(run_goal("g-42", somebody))
    with pytest.raises(InvalidArgument, match=r"make_agent\(0\) must return an Agent, not 'orchestrator'"):
        run(run_goal_best_of_n("g-42", lambda _: somebody, 1, score=len, store=None))


def test_an_async_store_is_taken_and_stays_open(store: Store) -> None:
    async def use() -> None:
        async with AsyncStore(store) as threads:
            for attempt in range(2):
                got = await run_goal("g-42", Agent("o", three_turns), store=threads, state={"seen": []})
                assert got.episode_id == attempt

    run(use())


# Children


def test_children_spawned_in_two_different_turns_get_different_ids(store: Store) -> None:
    async def act(turn: Turn) -> None:
        await turn.gather(*(turn.spawn("helper", three_turns, {"seen": []}) for _ in range(2)))
        await turn.spawn("helper", three_turns, {"seen": []}, name=f"turn-{turn.number}")
        await three_turns(turn)

    goes(act, store)
    ids = sorted(key.checkpoint_id for key in store.keys())
    own = [f"orchestrator-0.helper-1.{label}" for label in (0, 1, 3, 4, 6, 7, "turn-0", "turn-1", "turn-2")]
    assert ids == sorted(["orchestrator-0", *own])


def test_finished_children_are_not_run_again(store: Store) -> None:
    acted: list[str] = []
    fails = [True]

    async def child(turn: Turn) -> None:
        acted.append(f"{turn.state['of']} {turn.number}")
        turn.state["seen"].append(turn.number)
        if turn.state["of"] == 1 and turn.number == 1 and fails.pop():
            raise RuntimeError("the second child fails in its second turn")
        if turn.number == 2:
            turn.finish({"of": turn.state["of"], "seen": turn.state["seen"]})

    async def act(turn: Turn) -> None:
        first = await turn.spawn("helper", child, {"of": 0, "seen": []})
        second = await turn.spawn("helper", child, {"of": 1, "seen": []})
        turn.finish([first, second])

    with pytest.raises(RuntimeError, match="second child"):
        goes(act, store)
    fails.append(False)
    got = goes(act, store)
    assert got.result == [{"of": 0, "seen": [0, 1, 2]}, {"of": 1, "seen": [0, 1, 2]}]
    assert acted == ["0 0", "0 1", "0 2", "1 0", "1 1", "1 1", "1 2"]


def test_a_superseded_orchestrator_stops_its_whole_swarm(tmp_path: Path) -> None:
    """Also if its own act swallows what its children are told."""
    url = f"sqlite:///{tmp_path}/x.db"
    acted: list[str] = []
    hangs, all_hang = asyncio.Event(), asyncio.Event()

    def who(name: str, waits: bool) -> tuple[Agent, list[int]]:  # noqa: FBT001
        waiting: list[int] = []

        async def child(turn: Turn) -> None:
            acted.append(f"{name} child {turn.state} {turn.number}")
            if waits and turn.number == 1:
                waiting.append(turn.state)
                if len(waiting) == 3:
                    all_hang.set()
                await hangs.wait()
            if turn.number == 2:
                turn.finish()

        async def act(turn: Turn) -> None:
            acted.append(f"{name} {turn.number}")
            try:
                await turn.gather(*(turn.spawn("helper", child, n) for n in range(3)))
            except CheckpointConflict:
                acted.append(f"{name} swallows")
            turn.finish(name)

        return Agent("orchestrator", act), waiting

    async def both() -> None:
        with open_store(url) as first, open_store(url) as second:
            old = asyncio.ensure_future(run_goal("g-42", who("old", waits=True)[0], store=first))
            await all_hang.wait()
            got = await run_goal("g-42", who("new", waits=False)[0], store=second)
            assert got.result == "new"
            before = list(acted)
            hangs.set()
            with pytest.raises(CheckpointConflict):
                await old
            assert set(acted[len(before) :]) <= {"old swallows"}
            assert [(e.status, e.result) for e in first.episodes("g-42")] == [("finished", "new")]

    run(both())


def test_children_nest_until_the_id_is_too_long(store: Store) -> None:
    deepest = [0]

    async def act(turn: Turn) -> None:
        deepest[0] = max(deepest[0], turn.agent.depth)
        turn.finish(await turn.spawn("a-role-of-some-length", act))

    with pytest.raises(InvalidArgument, match="200"):
        goes(act, store)
    assert deepest[0] >= 6


@pytest.mark.parametrize("name", ["", "7", "a.b", 7])
def test_a_name_that_could_be_an_ordinal_or_a_path_is_refused(store: Store, name: Any) -> None:
    async def act(turn: Turn) -> None:
        await turn.spawn("helper", three_turns, {"seen": []}, name=name)

    with pytest.raises(InvalidArgument, match="name"):
        goes(act, store)


def test_a_name_is_of_one_child(store: Store) -> None:
    async def at_once(turn: Turn) -> None:
        await turn.gather(*(turn.spawn("helper", three_turns, {"seen": []}, name="one") for _ in range(2)))

    with pytest.raises(InvalidArgument, match="at work"):
        goes(at_once, store)

    async def again(turn: Turn) -> None:
        turn.finish([await turn.spawn("helper", three_turns, {"seen": [n]}, name="other") for n in range(2)])

    with pytest.warns(Drifted, match=r"helper-1\.other began with another state"):
        assert goes(again, store, resume=False).result == [{"seen": [0, 0, 1, 2]}] * 2


def test_what_is_gathered_can_be_awaited(store: Store) -> None:
    async def act(turn: Turn) -> None:
        children: Any = [turn.spawn("helper", three_turns, {"seen": []})]
        await turn.gather(children)

    with pytest.raises(InvalidArgument, match=r"gather\(\*children\), not \[<"):
        goes(act, store)


def test_a_spawn_that_is_never_awaited_is_told(store: Store) -> None:
    async def act(turn: Turn) -> None:
        turn.spawn("helper", three_turns, {"seen": []})
        turn.finish()

    with pytest.warns(RuntimeWarning, match=r"orchestrator-0\.helper-1\.0 was spawned and never awaited"):
        goes(act, store)


def test_the_first_error_of_those_gathered_ends_the_others(store: Store) -> None:
    ended: list[str] = []
    begun = asyncio.Event()

    async def fails(turn: Turn) -> None:
        await begun.wait()
        raise ValueError(turn.state)

    async def waits(_turn: Turn) -> None:
        begun.set()
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def act(turn: Turn) -> None:
        await turn.gather(turn.spawn("helper", waits), turn.spawn("helper", fails, "this one"), asyncio.sleep(10))

    with pytest.raises(ValueError, match="this one"):
        goes(act, store)
    assert ended == ["cancelled"]


def test_a_child_that_was_begun_is_ended_with_the_turn(store: Store) -> None:
    ended: list[str] = []

    async def child(turn: Turn) -> None:
        await asyncio.sleep(0.01)
        ended.append("acted")
        turn.finish()

    async def act(turn: Turn) -> None:
        begun = asyncio.ensure_future(turn.spawn("helper", child))
        await asyncio.sleep(0)
        assert not begun.done()
        turn.finish()

    goes(act, store)
    assert ended == ["acted"]


def test_a_thousand_children_at_once(tmp_path: Path) -> None:
    async def child(turn: Turn) -> None:
        turn.finish(turn.state * 2)

    async def act(turn: Turn) -> None:
        turn.finish(sum(await turn.gather(*(turn.spawn("helper", child, n) for n in range(1000)))))

    with open_store(f"sqlite:///{tmp_path}/x.db") as store:
        assert goes(act, store).result == 999_000
        assert len(list(store.keys())) == 1001


# Attempts


def test_the_best_of_three_attempts_wins_and_of_equal_ones_the_earlier(store: Store) -> None:
    scores = [1, 2, 2]

    def make_agent(attempt: int) -> Agent:
        async def act(turn: Turn) -> None:
            assert turn.state == {"seen": list(range(turn.number))}
            turn.state["seen"].append(turn.number)
            if turn.number == attempt:
                turn.finish(attempt)

        return Agent("orchestrator", act)

    for _ in range(2):
        best = run(run_goal_best_of_n("g-42", make_agent, 3, score=scores.__getitem__, store=store, state={"seen": []}))
        assert (best.winner.number, best.winner.episode_id, best.winner.score) == (1, 1, 2)
        assert [(a.number, a.episode_id, a.result, a.score, a.turns) for a in best.attempts] == [
            (0, 0, 0, 1, 1),
            (1, 1, 1, 2, 2),
            (2, 2, 2, 2, 3),
        ]


@pytest.mark.parametrize("place", ["attempt 0 turn 0", "attempt 1 turn 1", "attempt 2 turn 2"])
def test_a_kill_during_an_attempt_resumes_that_attempt_and_repeats_no_other(url: str, place: str) -> None:
    before, after = lives("best", url, place), lives("best", url)
    told = [(line["attempt"], line["number"]) for lines in (before, after) for line in lines if line["what"] == "turn"]
    killed = (int(place.split()[1]), int(place.split()[3]))
    assert sorted(told) == sorted([*((a, n) for a in range(3) for n in range(3)), killed])
    for line in (*before, *after):
        assert line["what"] != "turn" or line["state"]["of"] == [line["attempt"]] * line["number"]
    scored = [line["result"] for line in (*before, *after) if line["what"] == "score"]
    assert scored == [[0, 0, 0], [1, 1, 1], [2, 2, 2]], "each once"
    assert after[-1] == {"what": "got", "winner": 1, "episodes": [0, 1, 2]}


def test_an_attempt_that_was_killed_behind_its_end_has_ended(url: str) -> None:
    """Its root's key is closed, and its episode does not say so yet."""
    place = "before the episode's end is written"
    said = [line for process in (lives("best", url, place), lives("best", url)) for line in process]
    assert sum(line["what"] == "turn" for line in said) == 9
    assert said[-1] == {"what": "got", "winner": 1, "episodes": [0, 1, 2]}


def test_an_attempt_that_raised_is_inherited_by_no_other_and_resumed_by_its_own(store: Store) -> None:
    fails = {0, 1}

    def make_agent(attempt: int) -> Agent:
        async def act(turn: Turn) -> None:
            assert set(turn.state["of"]) <= {attempt}
            turn.state["of"].append(attempt)
            if turn.number == 1 and attempt in fails:
                raise RuntimeError(f"attempt {attempt} fails")
            if turn.number == 2:
                turn.finish(attempt)

        return Agent("orchestrator", act)

    def go() -> Any:
        return run(run_goal_best_of_n("g-42", make_agent, 3, score=lambda r: -r, store=store, state={"of": []}))

    best = go()
    assert (best.winner.number, [str(a.error) for a in best.attempts]) == (
        2,
        ["attempt 0 fails", "attempt 1 fails", "None"],
    )
    assert [a.turns for a in best.attempts] == [1, 1, 3]
    fails.clear()
    best = go()
    assert (best.winner.number, [a.episode_id for a in best.attempts]) == (0, [0, 1, 2])
    assert [a.turns for a in best.attempts] == [3, 3, 3]


def test_when_all_attempts_raise_the_first_error_is_raised(store: Store) -> None:
    def make_agent(attempt: int) -> Agent:
        async def act(_turn: Turn) -> None:
            raise RuntimeError(f"attempt {attempt} fails")

        return Agent("orchestrator", act)

    with pytest.raises(RuntimeError, match="attempt 0"):
        run(run_goal_best_of_n("g-42", make_agent, 2, score=float, store=store))


@pytest.mark.parametrize("concurrency", [1, 2, 9])
def test_so_many_attempts_are_under_way_at_the_same_time(store: Store, concurrency: int) -> None:
    at_work = most = 0
    all_there = asyncio.Event()

    def make_agent(_attempt: int) -> Agent:
        async def act(turn: Turn) -> None:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            if at_work == min(concurrency, 5):
                all_there.set()
            async with asyncio.timeout(30):
                await all_there.wait()
            await asyncio.sleep(0.01)  # for one too many to come
            at_work -= 1
            turn.finish(0)

        return Agent("orchestrator", act)

    best = run(run_goal_best_of_n("g", make_agent, 5, score=float, store=store, concurrency=concurrency))
    assert most == min(concurrency, 5)
    assert sorted(attempt.episode_id for attempt in best.attempts) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("n", "concurrency"), [(0, 1), (1, 0), (True, 1)])
def test_so_many_attempts_cannot_be(n: int, concurrency: int) -> None:
    attempts = run_goal_best_of_n(
        "g", lambda _: Agent("o", three_turns), n, concurrency=concurrency, score=float, store=None
    )
    with pytest.raises(InvalidArgument):
        run(attempts)


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ([None], "not None"),
        (["high"], "not 'high'"),
        ([float("nan")], "NaN"),
        ([1, [1]], r"comparable.*not \[1, \[1\]\]"),
    ],
)
def test_a_score_that_cannot_win_or_lose_is_refused(store: Store, scores: list[Any], told: str) -> None:
    def make_agent(attempt: int) -> Agent:
        async def act(turn: Turn) -> None:
            turn.finish(attempt)

        return Agent("o", act)

    best = run_goal_best_of_n("g", make_agent, len(scores), score=lambda result: scores[result], store=store)
    with pytest.raises(InvalidArgument, match=told):
        run(best)


# Budgets


async def spends(turn: Turn) -> None:
    turn.budget.add(input_tokens=100, dollars=1, tool_calls=1)
    await three_turns(turn)


def test_what_was_spent_stays_spent_and_a_larger_budget_goes_on(store: Store) -> None:
    with pytest.raises(BudgetExceeded, match=r"dollars 2 of 1\.5"):
        goes(spends, store, budget=Budget(dollars=1.5))
    with pytest.raises(BudgetExceeded, match=r"dollars 2 of 1\.5"):
        goes(spends, store, budget=Budget(dollars=1.5))
    got = goes(spends, store, budget=Budget(dollars=9))
    assert (got.resumed_from, got.result) == (2, {"seen": [0, 1, 2]})
    assert {kind: got.budget.spent[kind] for kind in ("dollars", "input_tokens", "tool_calls")} == {
        "dollars": 3,
        "input_tokens": 300,
        "tool_calls": 3,
    }


def test_every_commit_carries_what_was_spent(store: Store) -> None:
    goes(spends, store, keep=None)
    assert [info.meta["budget"].get("dollars", 0) for info in store.history(KEY)] == [3, 2, 1, 0]


def test_a_childs_spending_counts_once_wherever_it_is_resumed(store: Store) -> None:
    fails = [True]

    async def child(turn: Turn) -> None:
        await spends(turn)

    async def act(turn: Turn) -> None:
        turn.budget.add(dollars=10)
        await turn.gather(*(turn.spawn("helper", child, {"seen": []}) for _ in range(2)))
        assert await turn.once("effect", lambda: 1) == 1
        if turn.number == 1 and fails.pop():
            raise RuntimeError
        if turn.number == 2:
            turn.finish()

    with pytest.raises(RuntimeError):
        goes(act, store)
    fails.append(False)
    got = goes(act, store)
    assert got.budget.spent["dollars"] == 3 * 10 + 10 + 3 * 2 * 3  # the turn that was begun again is paid for again


def test_a_cap_stops_a_whole_swarm_also_if_its_parent_swallows_it(store: Store) -> None:
    async def child(turn: Turn) -> None:
        turn.budget.add(dollars=1)

    async def act(turn: Turn) -> None:
        try:
            await turn.gather(*(turn.spawn("helper", child) for _ in range(3)))
        except BudgetExceeded:
            turn.finish("swallowed")

    with pytest.raises(BudgetExceeded):
        goes(act, store, budget=Budget(dollars=20))
    assert [episode.status for episode in store.episodes("g-42")] == ["running"]


def test_a_cap_stops_all_attempts_over_all_processes(store: Store) -> None:
    def go(dollars: float) -> Any:
        return run(
            run_goal_best_of_n(
                "g-42",
                lambda _: Agent("orchestrator", spends),
                4,
                score=lambda _: 1,
                store=store,
                budget=Budget(dollars=dollars),
                state={"seen": []},
            )
        )

    with pytest.raises(BudgetExceeded, match="dollars 8 of 7"):
        go(7)
    with pytest.raises(BudgetExceeded, match="dollars 8 of 7"):
        go(7)
    best = go(12)
    assert best.budget.spent["dollars"] == 12
    assert [attempt.turns for attempt in best.attempts] == [3, 3, 3, 3]


def test_the_budgets_wall_clock_does_not_reset(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    lives("clock", url, "turn 1")
    lives("clock", url, "turn 2")
    ran = subprocess.run(
        [sys.executable, "-m", "tests.agents", "clock", url, ""], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "BudgetExceeded: the budget is exceeded: wall_seconds" in ran.stderr
    with open_store(url) as store:
        latest = store.latest(CheckpointKey("g-42", 0, "orchestrator-0"))
    assert latest is not None
    assert latest.meta["turn"] <= 4
    assert latest.meta["budget"]["wall_seconds"] > 1


def test_a_cap_of_ten_times_a_tenth_is_not_exceeded_by_ten_tenths() -> None:
    budget = Budget(dollars=0.3)
    for _ in range(3):
        budget.add(dollars=0.1)  # 0.30000000000000004 in all
    assert not budget.over()
    budget.add(dollars=0.0001)
    assert budget.over() == "the budget is exceeded: dollars 0.3001 of 0.3"


def test_what_was_not_spent_reads_as_nothing(store: Store) -> None:
    assert goes(three_turns, store).budget.spent["dollars"] == 0


def test_a_cap_that_the_last_turn_exceeds_does_not_take_its_result_away(store: Store) -> None:
    assert goes(spends, store, budget=Budget(dollars=2.5)).budget.spent["dollars"] == 3


@pytest.mark.parametrize("amounts", [{"tokens": 1}, {"dollars": -1}, {"dollars": "1"}, {"wall_seconds": 1}])
def test_what_is_not_counted_is_refused(amounts: Any) -> None:
    with pytest.raises(InvalidArgument):
        Budget().add(**amounts)


@pytest.mark.parametrize("caps", [{"tokens": 1}, {"dollars": -1}, {"dollars": True}, {"dollars": float("nan")}])
def test_a_cap_that_cannot_be_is_refused(caps: Any) -> None:
    with pytest.raises(InvalidArgument):
        Budget(**caps)


# Effects


def test_a_finished_effect_is_not_run_again(url: str, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    lives("mail", url, "at the end of turn 0", SENT=str(sent))
    lives("mail", url, "at the end of turn 1", SENT=str(sent))
    said = lives("mail", url, SENT=str(sent))
    assert said[-1]["result"] == ["sent 0 0", "sent 0 1", "sent 1 0", "sent 1 1"]
    assert sent.read_text().splitlines() == ["0 0", "0 1", "1 0", "1 1"]
    with open_store(url) as store:
        assert [key.checkpoint_id for key in store.keys()] == ["clerk-0"], "recorded results are left behind"


@pytest.mark.parametrize("place", ["before it is done", "after it was done"])
def test_an_effect_that_was_interrupted_is_reported(url: str, tmp_path: Path, place: str) -> None:
    sent = tmp_path / "sent"
    sent.touch()
    lives("mail", url, place, SENT=str(sent))
    for _ in range(2):
        [error] = lives("mail", url, SENT=str(sent))
        assert (error["what"], error["name"], error["arguments"]) == ("error", "mail", ["0 0"])
        assert "'mail'" in error["text"]
    said = lives("mail", url, SENT=str(sent), HOOK="1")
    assert said[0] == {"what": "uncertain", "name": "mail", "arguments": ["0 0"]}
    first = "found 0 0" if place == "after it was done" else "sent 0 0"
    assert said[-1]["result"] == [first, "sent 0 1", "sent 1 0", "sent 1 1"]
    assert sent.read_text().splitlines() == ["0 0", "0 1", "1 0", "1 1"]


def test_effects_of_one_name_in_one_turn_are_told_apart_by_order(store: Store) -> None:
    ran: list[str] = []
    fails = [True]

    def effect(text: str) -> str:
        ran.append(text)
        return text.upper()

    async def act(turn: Turn) -> None:
        got = [
            await turn.once("a", effect, "one"),
            await turn.once("b", effect, "two"),
            await turn.once("a", effect, "three"),
        ]
        got += await turn.gather(*(turn.once("c", effect, f"c{n}") for n in range(3)))
        if fails.pop():
            raise RuntimeError
        turn.finish(got)

    with pytest.raises(RuntimeError):
        goes(act, store)
    fails.append(False)
    assert goes(act, store).result == ["ONE", "TWO", "THREE", "C0", "C1", "C2"]
    assert ran == ["one", "two", "three", "c0", "c1", "c2"]


def test_an_effect_may_be_a_coroutine_and_its_result_any_json(store: Store) -> None:
    async def effect() -> object:
        await asyncio.sleep(0)
        return ("a tuple", {"of": "x" * 100_000})

    async def act(turn: Turn) -> None:
        assert await turn.once("effect", effect) == ["a tuple", {"of": "x" * 100_000}]
        turn.finish()

    goes(act, store)


def test_an_effect_that_raised_is_uncertain(store: Store) -> None:
    def effect() -> None:
        raise OSError("cut off")

    async def act(turn: Turn) -> None:
        await turn.once("effect", effect)

    with pytest.raises(OSError, match="cut off"):
        goes(act, store)
    with pytest.raises(EffectUncertain, match="effect"):
        goes(act, store)


def test_an_effect_asked_for_with_other_arguments_is_told_and_gives_what_is_recorded(store: Store) -> None:
    to = ["a@example.org"]
    sent: list[str] = []

    async def act(turn: Turn) -> None:
        await turn.once("send", sent.append, to[-1])
        if len(to) == 1:
            raise RuntimeError
        turn.finish()

    with pytest.raises(RuntimeError):
        goes(act, store)
    to.append("b@example.org")
    told = r"""'send' was begun with \("a@example.org"\) and is now asked for with \("b@example.org"\)"""
    with pytest.raises(Drifted, match=told):
        goes(act, store, on_drift="raise")
    with pytest.warns(Drifted, match=told):
        goes(act, store)
    assert sent == ["a@example.org"]


@pytest.mark.parametrize(
    ("before", "now", "alike"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (("x", 1), ["x", 1], True),
        ("x" * 99 + "a", "x" * 99 + "b", False),
        (1, 1.0, False),
        (object(), object(), True),  # nothing else of them is the same in another process
        (object(), 1, False),
    ],
)
def test_arguments_of_an_effect_are_alike_as_json(store: Store, before: Any, now: Any, alike: bool) -> None:  # noqa: FBT001
    given = [before]

    async def act(turn: Turn) -> None:
        await turn.once("effect", repr, given[-1])
        if len(given) == 1:
            raise RuntimeError
        turn.finish()

    with pytest.raises(RuntimeError):
        goes(act, store)
    given.append(now)
    if alike:
        goes(act, store, on_drift="raise")
    else:
        with pytest.raises(Drifted):
            goes(act, store, on_drift="raise")


@pytest.mark.parametrize("wrong", [{"name": ""}, {"name": {"to": 1}}, {"function": "send"}, {"on_uncertain": "hook"}])
def test_an_effect_that_cannot_be_is_refused_before_anything_is_committed(store: Store, wrong: dict[str, Any]) -> None:
    async def act(turn: Turn) -> None:
        given: dict[str, Any] = {"name": "effect", "function": print, **wrong}
        await turn.once(**given)

    with pytest.raises(InvalidArgument, match=r"is text|is a function"):
        goes(act, store)
    assert [info.step for info in store.history(KEY)] == [0]


def test_an_effect_whose_result_is_no_json_is_uncertain(store: Store) -> None:
    async def act(turn: Turn) -> None:
        await turn.once("effect", object)

    with pytest.raises(InvalidState, match=r"^result: object.* 'effect' is uncertain: it was called"):
        goes(act, store)
    with pytest.raises(EffectUncertain):
        goes(act, store)


def test_a_turn_with_more_effects_than_it_has_room_for_is_told(store: Store) -> None:
    ran: list[int] = []

    async def act(turn: Turn) -> None:
        for n in range(1000):
            await turn.once("an effect", ran.append, n)

    with pytest.raises(
        InvalidState, match=r"begun \d+ effects has no room for 'an effect': it belongs in the next turn"
    ):
        goes(act, store)
    assert 300 <= len(ran) < 1000


# Drift


def test_a_child_that_began_with_another_state_is_told(store: Store) -> None:
    ran: list[Any] = []

    async def child(turn: Turn) -> None:
        ran.append(turn.state)
        turn.finish(turn.state)

    def goes_with(question: int, **options: Any) -> Any:
        async def act(turn: Turn) -> None:
            answer = await turn.spawn("helper", child, {"question": question})
            if len(ran) == 1 and question == 1:
                raise RuntimeError
            turn.finish(answer)

        return goes(act, store, **options)

    with pytest.raises(RuntimeError):
        goes_with(1)
    with pytest.raises(Drifted, match=r"orchestrator-0\.helper-1\.0 began with another state"):
        goes_with(2, on_drift="raise")
    with pytest.warns(Drifted):
        assert goes_with(2).result == {"question": 1}
    assert ran == [{"question": 1}]


def test_a_name_in_a_fingerprint_that_is_there_without_a_value_is_not_absent(store: Store) -> None:
    async def fails(_turn: Turn) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        goes(fails, store, fingerprint={"model": "a"})
    with pytest.raises(Drifted, match="prompt was absent and is None"):
        goes(fails, store, fingerprint={"model": "a", "prompt": None}, on_drift="raise")


def test_another_fingerprint_is_told_by_what_differs(store: Store) -> None:
    async def fails(_turn: Turn) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        goes(fails, store, fingerprint={"model": "a", "tools": ["x"], "prompt": 1})
    with pytest.raises(RuntimeError):
        goes(fails, store, fingerprint={"prompt": 1, "tools": ["x"], "model": "a"})
    with pytest.raises(Drifted, match=r"model was 'a' and is 'b', extra was absent and is 1$"):
        goes(three_turns, store, fingerprint={"model": "b", "tools": ["x"], "prompt": 1, "extra": 1}, on_drift="raise")
    with pytest.warns(Drifted, match="model was 'a' and is 'b'"):
        goes(three_turns, store, fingerprint={"model": "b", "tools": ["x"], "prompt": 1})


# A store that cannot be reached


@pytest.mark.parametrize("away", [range(3), range(1, 2), range(2), [2]])
def test_a_store_that_is_away_never_ends_the_work(away: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is tried again at the next turn, counted, and told once."""
    backend = Failing()
    backend.away = math.inf if 0 in away else 0

    async def act(turn: Turn) -> None:
        await three_turns(turn)
        backend.away = math.inf if turn.number in away else 0

    with caplog.at_level(logging.WARNING, "durable_store"):
        got = goes(act, Store(backend), on_store_error="continue")
    assert got.result == {"seen": [0, 1, 2]}
    assert got.store_errors >= len(away)
    assert len([record for record in caplog.records if "not kept" in record.message]) == 1
    backend.away = 0
    latest = Store(backend).latest(CheckpointKey("g-42", 0, "orchestrator-0"))
    if 2 not in away:
        assert latest is not None
        assert latest.state == {"seen": [0, 1, 2]}


def test_without_that_a_store_that_is_away_ends_the_work_and_calling_again_resumes() -> None:
    backend = Failing()

    async def act(turn: Turn) -> None:
        await three_turns(turn)
        backend.away = math.inf if turn.number == 1 else 0

    with pytest.raises(StoreUnavailable):
        goes(act, Store(backend))
    backend.away = 0
    assert goes(three_turns, Store(backend)).resumed_from == 1


def test_an_effect_whose_intent_cannot_be_written_is_not_run() -> None:
    backend, ran = Failing(), list[int]()

    async def act(turn: Turn) -> None:
        backend.away = math.inf
        await turn.once("effect", ran.append, 1)

    with pytest.raises(StoreUnavailable):
        goes(act, Store(backend), on_store_error="continue")
    assert ran == []


def test_a_conflict_is_no_store_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"

    async def act(turn: Turn) -> None:
        with open_store(url) as other, other.resume("g-42", "orchestrator-0") as thief:
            thief.commit({"stolen": True})
        await three_turns(turn)

    with open_store(url) as store, pytest.raises(CheckpointConflict):
        goes(act, store, on_store_error="continue")
