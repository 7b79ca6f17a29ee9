"""The history checker objects to each kind of broken promise, and to nothing else."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any, Literal

import pytest

from durable_store_conformance.history import End, Op, violations

KEY = "goal/0/agent-0"
RUN: dict[str, int | None] = {KEY: 2}
WHOLE: dict[str, int | None] = {KEY: None}


def save(record: str, step: int, at: tuple[float, float], outcome: str = "ours", **more: Any) -> Op:
    """By a writer whose name is the first letter of the record."""
    fields: dict[str, Any] = {"found": (step, record) if outcome == "ours" else None, "writer": record[0], **more}
    return Op(record[0], "save", KEY, step, record, outcome=outcome, invoked=at[0], answered=at[1], **fields)


def theirs(record: str, step: int, at: tuple[float, float], found: str) -> Op:
    return save(record, step, at, "theirs", found=(step, found))


def load(step: int, at: tuple[float, float], found: str | None) -> Op:
    return Op("r", "load", KEY, step, found=(step, found) if found else None, invoked=at[0], answered=at[1])


def latest(at: tuple[float, float], step: int | None = None, found: str = "") -> Op:
    return Op("r", "latest", KEY, found=None if step is None else (step, found), invoked=at[0], answered=at[1])


def prune(at: tuple[float, float], *steps: int, outcome: str = "done") -> Op:
    return Op("p", "prune", KEY, steps=steps, outcome=outcome, invoked=at[0], answered=at[1])


def commit(record: str, step: int, at: tuple[float, float], outcome: str = "done") -> Op:
    told = record if outcome == "done" else ""
    return Op(record[0], "commit", KEY, step, told, record[0], outcome=outcome, invoked=at[0], answered=at[1])


def committed(record: str, step: int, at: tuple[float, float], previous: str) -> list[Op]:
    """A commit with the save that it consists of."""
    return [save(record, step, at, previous=previous), commit(record, step, at)]


def complaints(*history: Op, end: dict[int, str], keep: dict[str, int | None] | None = None) -> list[str]:
    return violations(history, {KEY: end}, keep=keep)


def test_a_sound_history_passes() -> None:
    assert not complaints(
        save("a0", 0, (0, 2)),
        theirs("b0", 0, (1, 3), found="a0"),
        save("b1", 1, (4, 9), "maybe-saved"),
        latest((5, 6), 0, "a0"),
        latest((7, 8), 1, "b1"),
        save("b1", 1, (10, 11)),
        theirs("a1", 1, (10, 12), found="b1"),
        save("c2", 2, (12, 13), "unavailable"),
        load(2, (14, 15), None),
        end={0: "a0", 1: "b1"},
    )


def test_a_sound_history_of_runs_passes() -> None:
    assert not complaints(
        *committed("a0", 0, (0, 1), ""),
        *committed("a1", 1, (2, 3), "a0"),
        save("a2", 2, (4, 5), "maybe-saved", previous="a1"),
        commit("a2", 2, (4, 5), "maybe-saved"),
        *committed("b2", 2, (6, 7), "a1"),
        theirs("a2", 2, (8, 9), found="b2"),
        commit("a2", 2, (8, 9), "conflict"),
        *committed("b3", 3, (10, 11), "b2"),
        prune((12, 13), 1),
        end={0: "a0", 2: "b2", 3: "b3"},
        keep=RUN,
    )


def test_a_step_has_one_winner() -> None:
    [complaint] = complaints(save("a0", 0, (0, 2)), save("b0", 0, (1, 3)), end={0: "a0"})
    assert "two winners" in complaint
    assert complaints(save("a0", 0, (0, 2)), theirs("b0", 0, (1, 3), "c0"), save("c0", 0, (0, 3)), end={0: "a0"})
    assert complaints(save("a0", 0, (0, 2)), save("b0", 0, (1, 3), "maybe-saved"), end={0: "b0"})


def test_a_pruned_step_may_be_created_again_by_a_request_that_was_late() -> None:
    late = theirs("b0", 0, (1, 3), found="a0")
    assert not complaints(save("a0", 0, (0, 2)), late, prune((4, 5), 0), end={0: "b0"})
    assert complaints(save("a0", 0, (0, 2)), late, end={0: "b0"})


def test_what_was_acknowledged_is_there_at_the_end() -> None:
    [complaint] = complaints(save("a0", 0, (0, 1)), end={})
    assert "missing at the end" in complaint
    assert not complaints(save("a0", 0, (0, 1)), prune((0.5, 2), 0), end={})
    assert not complaints(save("a0", 0, (0, 1)), prune((2, 3), 0, outcome="unavailable"), end={})
    assert not complaints(save("a0", 0, (0, 1), "maybe-saved"), end={})


def test_what_somebody_read_is_there_at_the_end() -> None:
    assert complaints(save("a0", 0, (0, 1), "maybe-saved"), load(0, (2, 3), "a0"), end={})
    assert complaints(save("a0", 0, (0, 1), "maybe-saved"), latest((2, 3), 0, "a0"), end={})
    assert complaints(save("a0", 0, (0, 1), "maybe-saved"), theirs("b0", 0, (2, 3), found="a0"), end={})


def test_what_was_acknowledged_is_found_from_then_on() -> None:
    assert complaints(save("a0", 0, (0, 1)), load(0, (2, 3), None), end={0: "a0"})
    assert not complaints(save("a0", 0, (0, 2)), load(0, (1, 3), None), end={0: "a0"})
    assert complaints(save("a0", 0, (0, 1)), latest((2, 3)), end={0: "a0"})
    assert not complaints(save("a0", 0, (0, 1)), load(0, (3, 4), None), prune((2, 5), 0), end={})


def test_latest_never_goes_back() -> None:
    saves = save("a0", 0, (0, 1)), save("a1", 1, (2, 5))
    end = {0: "a0", 1: "a1"}
    assert not complaints(*saves, latest((3, 4), 1, "a1"), latest((3, 6), 0, "a0"), end=end)
    assert complaints(*saves, latest((3, 3.1), 1, "a1"), latest((4, 4.1), 0, "a0"), end=end)
    assert complaints(*saves, latest((6, 7), 0, "a0"), end=end)


def test_who_saw_a_lower_step_as_the_latest_dates_the_higher_one() -> None:
    """Step 0 was there only from 6 on, so step 1 was not there before 6 either, and nobody saw it at 5."""
    saves = save("a0", 0, (6, 9)), save("b1", 1, (0, 9))
    seen = latest((2, 8), 0, "a0")
    assert not complaints(*saves, seen, load(1, (4, 7), "b1"), end={0: "a0", 1: "b1"})
    assert complaints(*saves, seen, load(1, (4, 5), "b1"), end={0: "a0", 1: "b1"})


def test_nothing_is_seen_before_it_was_sent() -> None:
    assert complaints(load(0, (0, 1), "a0"), save("a0", 0, (2, 3)), end={0: "a0"})


def test_nothing_is_seen_that_was_never_sent() -> None:
    [complaint] = complaints(save("a0", 0, (0, 1), "maybe-saved"), load(0, (2, 3), "torn: a0"), end={})[:1]
    assert "saved by nobody" in complaint


def test_a_save_that_was_told_nothing_was_saved_leaves_nothing() -> None:
    assert complaints(save("a0", 0, (0, 1), "unavailable"), end={0: "a0"})
    assert not complaints(save("a0", 0, (0, 1), "unavailable"), save("a0", 0, (2, 3)), end={0: "a0"})
    assert complaints(
        load(0, (1.5, 1.6), "a0"), save("a0", 0, (0, 1), "unavailable"), save("a0", 0, (2, 3)), end={0: "a0"}
    )


def test_nobody_is_told_of_a_conflict_with_its_own_record() -> None:
    assert complaints(theirs("a0", 0, (0, 1), found="a0"), end={0: "a0"})
    assert complaints(theirs("a0", 0, (0, 1), found="b0"), save("b0", 0, (0, 1), "maybe-saved"), end={0: "a0"})


def test_a_record_that_is_gone_was_pruned_by_somebody() -> None:
    assert complaints(save("a0", 0, (0, 2)), save("b0", 0, (1, 4), "conflict"), end={0: "a0"})
    assert not complaints(save("a0", 0, (0, 2)), save("b0", 0, (1, 4), "conflict"), prune((2, 3), 0), end={})
    assert complaints(save("a0", 0, (0, 2)), save("b0", 0, (1, 4), "conflict"), prune((5, 6), 0), end={})


def test_an_acknowledged_commit_was_the_newest() -> None:
    late = [*committed("a0", 0, (0, 9), ""), *committed("b1", 1, (2, 3), "a0")]
    assert not complaints(*late, end={0: "a0", 1: "b1"})
    history = [save("a0", 0, (0, 1), "maybe-saved"), *committed("b1", 1, (2, 3), "a0"), *committed("a0", 0, (4, 5), "")]
    [complaint] = complaints(*history, end={0: "a0", 1: "b1"})
    assert "step 1 was there before it" in complaint


@pytest.mark.parametrize("rival", [0, 1])
def test_a_commit_is_refused_only_where_a_rival_was(rival: int) -> None:
    lost = [save("a0", 0, (0, 5), "maybe-saved"), commit("a0", 0, (0, 5), "conflict")]
    assert complaints(*lost, end={})
    assert complaints(*lost, end={0: "a0"})
    history = [*lost, save(f"b{rival}", rival, (1, 2))]
    assert not complaints(*history, end={rival: f"b{rival}"})
    assert complaints(*lost, save(f"b{rival}", rival, (6, 7)), end={rival: f"b{rival}"})
    assert complaints(*lost, save(f"b{rival}", rival, (1, 2), "unavailable"), end={})
    assert complaints(*lost, save(f"b{rival}", rival, (1, 2), "maybe-saved"), end={})


def test_a_refused_commit_that_was_saved_met_a_higher_step() -> None:
    lost = [save("a0", 0, (0, 5)), commit("a0", 0, (0, 5), "conflict")]
    assert complaints(*lost, theirs("b0", 0, (1, 2), found="a0"), end={0: "a0"})
    assert not complaints(*lost, save("b1", 1, (1, 2)), end={0: "a0", 1: "b1"})


def test_a_commit_builds_on_the_one_before() -> None:
    first = committed("a0", 0, (0, 1), "")
    assert not complaints(*first, *committed("b1", 1, (2, 3), "a0"), end={0: "a0", 1: "b1"}, keep=WHOLE)
    assert complaints(*first, *committed("b1", 1, (2, 3), "c0"), end={0: "a0", 1: "b1"}, keep=WHOLE)
    assert complaints(*first, *committed("b1", 1, (2, 3), ""), end={0: "a0", 1: "b1"}, keep=WHOLE)
    assert complaints(*first, *committed("b2", 2, (2, 3), "a0"), end={0: "a0", 2: "b2"}, keep=WHOLE)


def test_retention_leaves_the_newest_and_the_first_of_each_run() -> None:
    history = [
        op for step in range(5) for op in committed(f"a{step}", step, (step, step + 0.5), f"a{step - 1}" * (step > 0))
    ]
    asked = prune((6, 7), *range(5))
    assert not complaints(*history, asked, end={0: "a0", 3: "a3", 4: "a4"}, keep=RUN)
    assert complaints(*history, asked, end={0: "a0", 2: "a2", 4: "a4"}, keep=RUN)
    assert complaints(*history, asked, end={3: "a3", 4: "a4"}, keep=RUN)
    assert complaints(*history, asked, end={0: "a0", 3: "a3", 4: "a4"}, keep=WHOLE)
    assert complaints(*history, asked, end={0: "a0", 3: "b3", 4: "a4"}, keep=RUN)


def test_nothing_takes_longer_than_its_time_outs_allow() -> None:
    history = [save("a0", 0, (0, 5)), load(0, (6, 7.5), "a0")]
    assert not violations(history, {KEY: {0: "a0"}}, patience={"save": 5, "load": 2})
    assert violations(history, {KEY: {0: "a0"}}, patience={"save": 4, "load": 2})
    assert violations(history, {KEY: {0: "a0"}}, patience={"save": 5, "load": 1})


def test_keys_do_not_mix() -> None:
    other = save("b0", 0, (0, 1))._replace(key="goal/1/agent-0")
    assert not violations([save("a0", 0, (0, 1)), other], {KEY: {0: "a0"}, "goal/1/agent-0": {0: "b0"}})
    assert violations([save("a0", 0, (0, 1)), other], {KEY: {0: "a0", 1: "a0"}, "goal/1/agent-0": {0: "a0"}})


# Against a search through all orders of events.


@dataclass(frozen=True)
class Event:
    """Something that happens to the storage at one moment, or is seen of it."""

    does: Literal["create", "remove", "expect", "expect-any", "expect-latest"]
    step: int
    record: str | None
    since: float
    by: float = inf  # never, perhaps
    after: "Event | None" = None


def events(history: list[Op]) -> Iterator[Event]:
    """What must have happened, and by when; and what may have: a request can arrive late, or twice."""
    prunes = any(op.what == "prune" for op in history)
    for number, op in enumerate(history):
        now = (op.invoked, op.answered)
        match op.what, op.outcome:
            case "save", outcome:
                copies = 0 if outcome == "unavailable" else 1 + prunes
                yield from [Event("create", op.step, op.record, op.invoked + copy * 1e-6) for copy in range(copies)]
                if op.found:
                    yield Event("expect", op.step, op.found[1], *now)
                if outcome == "conflict":
                    taken = Event("expect-any", op.step, f"{number}", *now)
                    yield taken
                    yield Event("expect", op.step, None, *now, after=taken)
            case "load", "done":
                yield Event("expect", op.step, op.found and op.found[1], *now)
            case "latest", "done":
                step, record = op.found or (-1, None)
                yield Event("expect-latest", step, record, *now)
            case "prune", outcome:
                yield from [Event("remove", step, None, op.invoked) for step in op.steps]
                if outcome == "done":
                    yield from [Event("remove", step, None, *now) for step in op.steps]
            case _:
                pass


def is_possible(history: list[Op], end: End) -> bool:
    """Whether some order of events explains what was told; by trying all."""
    wanted = tuple(sorted(end[KEY].items()))

    @cache
    def search(left: frozenset[Event], there: tuple[tuple[int, str], ...]) -> bool:
        due = min((event.by for event in left), default=inf)
        if due == inf and there == wanted:
            return True
        return any(
            search(left - {event}, after)
            for event in left
            if event.since < due and event.after not in left and (after := happens(event, dict(there))) is not None
        )

    return search(frozenset(events(history)), ())


def happens(event: Event, there: dict[int, str]) -> tuple[tuple[int, str], ...] | None:
    """What is there after the event, or None if it cannot be now."""
    match event.does:
        case "create":
            there.setdefault(event.step, event.record or "")
            fits = True
        case "remove":
            there.pop(event.step, None)
            fits = True
        case "expect":
            fits = there.get(event.step) == event.record
        case "expect-any":
            fits = event.step in there
        case "expect-latest":
            fits = max(there.items(), default=(-1, None)) == (event.step, event.record)
    return tuple(sorted(there.items())) if fits else None


def some_history(rng: random.Random, *, prunes: bool) -> tuple[list[Op], End]:
    """What a world may tell: mostly the truth, often with a lie in it."""
    there: dict[int, str] = {}
    whats = ["save", "save", "save", "load", "latest", "prune"][: 6 if prunes else 5]
    size = rng.randint(2, 5)
    spans = [sorted(rng.random() for _ in range(3)) for _ in range(size)]  # each begins, happens, and ends
    history = list[Op]()
    for number, (begins, _, ends) in enumerate(sorted(spans, key=lambda span: span[1])):
        name = "abcde"[number if rng.random() < 0.8 else rng.randint(0, number)]  # now and then somebody tries again
        history.append(some_op(rng, rng.choice(whats), name, there, (begins, ends)))
    if rng.random() < 0.6:
        index = rng.randrange(size)
        history[index] = lie(rng, history[index])
    if rng.random() < 0.1:
        there.pop(rng.choice([0, 1]), None)
    return history, {KEY: there}


def some_op(rng: random.Random, what: str, name: str, there: dict[int, str], at: tuple[float, float]) -> Op:
    step = rng.choice([0, 1])
    match what:
        case "save":
            record, outcome = f"{name}{step}", rng.choice(["", "", "", "maybe-saved", "unavailable"])
            if outcome == "" or (outcome == "maybe-saved" and rng.random() < 0.5):
                there.setdefault(step, record)
            if outcome:
                return save(record, step, at, outcome)
            return save(record, step, at) if there[step] == record else theirs(record, step, at, there[step])
        case "load":
            return load(step, at, there.get(step))
        case "latest":
            return latest(at, *max(there.items(), default=(None, "")))
        case _:
            there.pop(step, None)
            return prune(at, step, outcome=rng.choice(["done", "unavailable"]))


def lie(rng: random.Random, op: Op) -> Op:
    """The same operation with another answer."""
    step = rng.choice([0, 1])
    seen = rng.choice([None, *((step, f"{name}{step}") for name in "abcde")])
    match op.what:
        case "save":
            mine = f"{op.process}{op.step}"
            told = rng.choice(["ours", "theirs", "maybe-saved", "unavailable", "conflict"])
            if told == "theirs":
                other = rng.choice("abcde".replace(op.process, ""))
                return theirs(mine, op.step, (op.invoked, op.answered), f"{other}{op.step}")
            return save(mine, op.step, (op.invoked, op.answered), told)
        case "load":
            return op._replace(found=seen and (op.step, f"{seen[1][0]}{op.step}"))
        case "latest":
            return op._replace(found=seen)
        case _:
            return op


def test_without_prunes_the_checker_agrees_with_a_search_through_all_orders() -> None:
    rng = random.Random(1)
    sound = 0
    for _ in range(4000):
        history, end = some_history(rng, prunes=False)
        possible = is_possible(history, end)
        assert possible == (not violations(history, end)), (history, end, violations(history, end))
        sound += possible
    assert 1000 < sound < 3000


def test_with_prunes_the_checker_never_objects_to_what_some_order_explains() -> None:
    rng = random.Random(2)
    sound = caught = 0
    for _ in range(2000):
        history, end = some_history(rng, prunes=True)
        wrong = violations(history, end)
        possible = is_possible(history, end)
        assert not (possible and wrong), (history, end, wrong)
        sound += possible
        caught += bool(wrong)
    assert sound > 500
    assert caught > 500
