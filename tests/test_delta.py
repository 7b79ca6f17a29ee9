"""Deltas: a run keeps what changed, and whatever it keeps can be read, until its bases are damaged."""

import random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_store import CheckpointDamaged, CheckpointKey, Run, Store
from durable_store.body import LITERAL, Body, Piece, Reader, spliced
from durable_store.delta import LEAST, MAX_BASES, Ladder, difference
from durable_store.record import decode_header
from durable_store_backends.memory import MemoryBackend

KEY = CheckpointKey("g", 0, "a-0")
CHANCE = random.Random(7)
WORDS = [CHANCE.randbytes(6).hex() for _ in range(2000)]


@pytest.fixture
def store() -> Store:
    return Store(MemoryBackend())


def text(length: int) -> str:
    """Text that no other one repeats."""
    return " ".join(CHANCE.choices(WORDS, k=length // 13))


def growing(turns: int, *, budget_first: bool = False) -> list[dict[str, Any]]:
    """The states of an agent, turn by turn."""
    messages: list[str] = []
    states: list[dict[str, Any]] = []
    for turn in range(turns):
        messages += [text(1500), text(1500)]
        budget = {"tokens": turn * 917, "dollars": round(turn * 0.0137, 4)}
        parts: list[tuple[str, Any]] = [("messages", list(messages)), ("budget", budget)]
        states.append(dict(reversed(parts) if budget_first else parts))
    return states


def committed(store: Store, states: list[Any], keep: int | None = None) -> Run:
    run = store.resume("g", "a-0", keep=keep)
    for state in states:
        run.commit(state)
    return run


def bases_of(store: Store, step: int) -> list[int]:
    record = store.backend.load(KEY, step)
    assert record
    return [base for base, _ in decode_header(record, KEY, step).bases]


def stored(store: Store) -> int:
    return sum(len(store.backend.load(KEY, step) or b"") for step in store.backend.steps(KEY))


# What changed is found


def taken(pieces: list[Piece], old: bytes, new: bytes) -> bytes:
    """What the pieces make, from the old state and the new one's literals."""
    at, made = 0, b""
    for source, offset, length in pieces:
        assert source != LITERAL or offset == at
        made += (new if source == LITERAL else old)[offset : offset + length]
        at += length
    return made


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_state_is_made_of_the_pieces_that_its_difference_lists(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.binary(max_size=80), max_size=12))
    edited = data.draw(st.lists(st.sampled_from(parts), max_size=12) if parts else st.just([]))
    extra = data.draw(st.lists(st.binary(max_size=80), max_size=4))
    chance = data.draw(st.randoms(use_true_random=False))
    new = [*edited, *extra]
    chance.shuffle(new)
    old = b"".join(part * 3 for part in parts)
    assert taken(difference(0, old, b"".join(new)), old, b"".join(new)) == b"".join(new)


OLD = text(100_000).encode()


@pytest.mark.parametrize(
    ("new", "most"),
    [
        (OLD + b"x" * 100, 100),
        (b"x" * 100 + OLD, 100),
        (OLD[:5000] + b"x" * 100 + OLD[5000:], 100),
        (OLD[:5000] + OLD[90_000:], 0),
        (OLD[:50] + b"12" + OLD[51:70_000] + b"345" + OLD[70_001:] + b"tail", 9),
        (b"x" * 40_000 + OLD[20_000:], 40_000),
        (OLD, 0),
    ],
    ids=["behind", "before", "within", "removed", "in three places", "replaced", "equal"],
)
def test_what_goes_on_alike_behind_a_change_is_copied(new: bytes, most: int) -> None:
    old = OLD
    pieces = difference(0, old, new)
    assert taken(pieces, old, new) == new
    assert sum(piece.length for piece in pieces if piece.source == LITERAL) <= most


# A run keeps what changed


@pytest.mark.parametrize("budget_first", [False, True])
def test_the_whole_history_takes_less_than_twice_its_last_state(store: Store, budget_first: bool) -> None:  # noqa: FBT001
    states = growing(200, budget_first=budget_first)
    committed(store, states)
    assert stored(store) < 2 * len(orjson.dumps(states[-1]))
    for step, state in enumerate(states):
        assert store.load(KEY, step).state == state


def test_a_delta_builds_on_the_record_before_and_on_its_bases_eight_at_most(store: Store) -> None:
    start = text(100_000)
    committed(store, [{"start": start, "notes": WORDS[:n]} for n in range(700)])
    before: list[int] = []
    most = 0
    for step in range(700):
        bases = bases_of(store, step)
        assert bases == sorted(bases)
        assert set(bases) <= {*before, step - 1}
        before, most = bases, max(most, len(bases))
    assert most == MAX_BASES


def test_a_small_state_is_kept_as_it_is(store: Store) -> None:
    committed(store, [{"n": n, "text": "x" * (LEAST - 100)} for n in range(3)])
    for step in range(3):
        assert (store.history(KEY)[step].encoding, bases_of(store, step)) == ((), [])


def test_a_state_that_is_new_each_time_is_kept_whole(store: Store) -> None:
    states = [text(20_000) for _ in range(5)]
    committed(store, states)
    assert [bases_of(store, step) for step in range(5)] == [[]] * 5
    assert [store.load(KEY, step).state for step in range(5)] == states


def test_states_that_change_everywhere_come_back_equal(store: Store) -> None:
    chance = random.Random(3)
    state: dict[str, Any] = {str(n): chance.random() for n in range(3000)}
    states: list[Any] = []
    for _ in range(60):
        for _ in range(chance.choice([1, 10, 3000])):
            state[str(chance.randrange(4000))] = chance.choice([chance.random(), text(100), None])
        if chance.random() < 0.2:
            state = dict(chance.sample(list(state.items()), len(state)))
        states.append(dict(state))
    committed(store, states)
    assert [store.load(KEY, step).state for step in range(60)] == states


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_at_most_twice_as_many_as_are_kept_stay_besides_fences_and_bases(store: Store, keep: int) -> None:
    states = growing(120)
    done = 0
    for life in range(12):  # a process is killed after ten commits or fewer
        run = store.resume("g", "a-0", keep=keep)
        assert run.state == (states[done - 1] if done else None)
        for state in states[done : done + 1 + life % 10]:
            run.commit(state)
            done += 1
            steps = store.backend.steps(KEY)
            assert steps[:keep] == list(range(done - 1, max(-1, done - 1 - keep), -1))
            assert len(steps) <= 2 * keep + MAX_BASES + life + 1
            for step in steps[:keep]:
                assert store.load(KEY, step).state == states[step]


def test_nothing_that_stays_has_lost_its_bases(store: Store) -> None:
    states = growing(90)
    done = 0
    for _ in range(9):
        run = store.resume("g", "a-0", keep=3)
        for state in states[done : done + 10]:
            run.commit(state)
            done += 1
            for step in store.backend.steps(KEY):
                assert store.load(KEY, step).state == states[step]


def test_prune_leaves_what_the_steps_that_stay_need(store: Store) -> None:
    states = growing(40)
    committed(store, states)
    store.prune(KEY, keep=2)
    left = store.backend.steps(KEY)
    assert left[:2] == [39, 38]
    assert set(left) == {39, 38, *bases_of(store, 39), *bases_of(store, 38)}
    assert store.load(KEY, 38).state == states[38]


def test_a_rewind_and_a_fork_take_the_state_of_a_delta(store: Store) -> None:
    states = growing(20)
    run = committed(store, states)
    assert run.rewind(7) == 20
    assert store.load(KEY, 20).state == run.state == states[7]
    run.commit(states[8])
    assert store.latest(KEY).state == states[8]  # type: ignore[union-attr]
    other = CheckpointKey("g", store.start_episode("g"), "b")
    assert store.fork(KEY, other, step=15).state == states[15]


# Damage


def damage(store: Store, step: int) -> None:
    record = store.backend.load(KEY, step)
    assert record
    store.backend.prune(KEY, [step])
    store.backend.save(KEY, step, record[:-1] + bytes([record[-1] ^ 1]))


def test_a_damaged_base_damages_exactly_what_builds_on_it(store: Store) -> None:
    states = growing(60)
    committed(store, states)
    for step in (37, 40, 48):
        kept = store.backend.load(KEY, step)
        assert kept
        damage(store, step)
        for other in range(60):
            if other == step or step in bases_of(store, other):
                with pytest.raises(CheckpointDamaged):
                    store.load(KEY, other)
            else:
                assert store.load(KEY, other).state == states[other]
        store.backend.prune(KEY, [step])
        store.backend.save(KEY, step, kept)


def test_past_a_damaged_base_the_newest_that_can_be_read_is_found_and_a_run_begins_with_a_snapshot(
    store: Store,
) -> None:
    states = growing(60)
    committed(store, states)
    base = bases_of(store, 59)[-1]
    damage(store, base)
    with pytest.raises(CheckpointDamaged, match=f"step 59 is damaged: its base, step {base}: its bytes do not match"):
        store.latest(KEY)
    found = store.latest(KEY, skip_damaged=True)
    assert found
    assert base not in bases_of(store, found.step)
    assert (found.state, found.skipped) == (states[found.step], tuple(range(59, found.step, -1)))
    run = store.resume("g", "a-0")
    assert run.state == found.state
    assert run.commit(states[-1]) == 60
    assert bases_of(store, 60) == []
    assert store.latest(KEY).state == states[-1]  # type: ignore[union-attr]


# Bodies of another's making


BASE = b"0123456789" * 10
READ = (7, "d" * 64)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "does not begin with a list of pieces"),
        (b"[5]", "does not begin with a list of pieces"),
        (b"{}\n", "which is no piece"),
        (b"[[0,0]]\n", "which is no piece"),
        (b"[[1,0,5]]\n", "which is no piece"),
        (b"[[0,-1,5]]\n", "which is no piece"),
        (b"[[0,0,0]]\n", "which is no piece"),
        (b"[true]\nx", "which is no piece"),
        (b"[[0,true,1]]\n", "which is no piece"),
        (b"[-1]\n", "which is no piece"),
        (b"[[0,96,5]]\n", "copies what step 7 does not have"),
        (b"[5]\nabcd", "has 4 bytes of literals where its pieces have 5"),
        (b"[3]\nabcd", "has 4 bytes of literals where its pieces have 3"),
        (b"[[0,0,5]]\n", "has 5 bytes of state where the header says 8"),
        (b"[[0,0,50],[0,0,50]]\n", "has 100 bytes of state where the header says 8"),
    ],
)
def test_a_spliced_body_that_is_not_what_it_says_is_damage(content: bytes, told: str) -> None:
    reader = Reader()
    reader.add(7, Body(BASE), len(BASE))
    with pytest.raises(ValueError, match=told):
        reader.add(8, Body(content, ("splice",), (READ,)), 8)


def test_a_body_that_builds_on_what_its_header_does_not_name_is_damage() -> None:
    reader = Reader()
    with pytest.raises(ValueError, match="builds on step 7, which its header does not name before it"):
        reader.add(8, Body(b"[[0,0,5]]\n", ("splice",), (READ,)), 5)


def test_a_body_never_unpacks_to_more_than_its_state() -> None:
    packed = Body(b"0" * 2**24).packed()
    assert len(packed.content) < 2**12
    with pytest.raises(ValueError, match="unpacks to more than the 1000 bytes"):
        Reader().add(0, packed, 1000)


PACKED = Body(b"0" * 1000).packed()


@pytest.mark.parametrize("content", [PACKED.content[:-1], PACKED.content + b"x", b"no zstd"])
def test_a_packed_body_is_one_whole_frame(content: bytes) -> None:
    with pytest.raises(ValueError, match="zstd"):
        Reader().add(0, Body(content, PACKED.encoding), 1000)


def test_what_a_ladder_writes_a_reader_reads() -> None:
    ladder, old, reader = Ladder(), b"", Reader()
    for step, state in enumerate(map(orjson.dumps, growing(30))):
        plan = ladder.next(old, state)
        reader.add(step, plan.body(), len(state))
        assert reader.state(step) == state
        ladder, old = plan.ladder(step, "d" * 64), state
    assert spliced([Piece(LITERAL, 0, 3)], b"abc", []).content == b"[3]\nabc"
