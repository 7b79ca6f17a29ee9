import dataclasses
import datetime as dt
import enum
import struct
import sys
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_store import CheckpointKey, InvalidState, Store, open_store
from durable_store.state import MAX_DEPTH, same_json, to_json

KEY = CheckpointKey("g", 0, "a")

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.Enum):
    RED = "red"
    NOT_A_NUMBER = float("nan")
    WHEN = dt.date(2026, 1, 1)


@dataclasses.dataclass
class Message:
    text: str


def nested(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


class Endless(dict[str, object]):
    pass


circle: dict[str, object] = {}
circle["self"] = circle


@given(json_values)
def test_what_json_holds_comes_back_equal(value: object) -> None:
    assert orjson.loads(to_json(value)) == value


@pytest.mark.parametrize(
    ("state", "offence"),
    [
        ({"messages": [0, 1, 2, {"score": float("nan")}]}, "$.messages[3].score: NaN"),
        ({"a": [None, float("inf")]}, "$.a[1]: Infinity"),
        ([-float("inf")], "$[0]: -Infinity"),
        ({"a": {1, 2}}, "$.a: set is no JSON type"),
        ({"a": b"x"}, "$.a: bytes is no JSON type"),
        ({"a b": [2**70]}, '$["a b"][0]: an integer outside'),
        ({"a": 2**64}, "$.a: an integer outside"),
        ({"a": -(2**63) - 1}, "$.a: an integer outside"),
        ({"a": "x\ud800"}, "$.a: a lone surrogate"),
        ({"a": {"\udfff": 1}}, "$.a: a lone surrogate in the key"),
        ({"a": {1: 2}}, "$.a: the key 1 is int, not a plain string"),
        ({"a": {None: 2}}, "$.a: the key None is NoneType"),
        ({"id": uuid.UUID(int=1)}, "$.id: uuid.UUID is no JSON type"),
        ({"at": [dt.datetime(2026, 1, 1, tzinfo=dt.UTC)]}, "$.at[0]: datetime.datetime is no JSON type"),
        ({"at": dt.time(1)}, "$.at: datetime.time is no JSON type"),
        ({"m": Message("x")}, "Message is no JSON type"),
        ({"p": Point(1, 2)}, "Point is no JSON type"),
        ({"e": Colour.NOT_A_NUMBER}, "$.e: NaN"),
        ({"e": Colour.WHEN}, "$.e: datetime.date is no JSON type"),
        ({"f": orjson.Fragment(b"[1")}, "$.f: orjson.Fragment is no JSON type"),
        (object(), "$: object is no JSON type"),
        (1j, "$: complex is no JSON type"),
        (nested(251), "nested deeper than 250"),
        (nested(1000), "nested deeper than 250"),
        (circle, "nested deeper than 250"),
    ],
)
def test_what_json_would_lose_is_refused_with_its_path_and_the_store_is_unchanged(state: object, offence: str) -> None:
    with open_store("memory://") as store:
        store.save(KEY, 0, "before")
        run = store.resume("r", "a")
        with pytest.raises(InvalidState) as saving:
            store.save(KEY, 1, state)
        with pytest.raises(InvalidState) as committing:
            run.commit(state)
        assert offence in str(saving.value)
        assert str(committing.value) == str(saving.value)
        assert "\n" not in str(saving.value)
        assert list(store.keys()) == [KEY]
        assert store.backend.steps(KEY) == [0]


@pytest.mark.parametrize(
    ("state", "comes_back"),
    [
        ((1, (2,)), [1, [2]]),
        ({"c": Colour.RED}, {"c": "red"}),
        (OrderedDict[str, int](b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(list[int], a=[1]), {"a": [1]}),
        ([None, 1.5, -0.0, True], [None, 1.5, -0.0, True]),
        ({"null": None, "text": "null"}, {"null": None, "text": "null"}),
        (nested(MAX_DEPTH), nested(MAX_DEPTH)),
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
        ("\U0010ffff\x00", "\U0010ffff\x00"),
        (Endless(a=1), {"a": 1}),
    ],
)
def test_what_comes_back_of(state: object, comes_back: object) -> None:
    assert orjson.loads(to_json(state)) == comes_back


@given(json_values, st.sampled_from([float("nan"), -float("nan"), float("inf"), -float("inf")]), st.data())
def test_no_float_that_json_lacks_is_ever_overlooked(value: Any, bad: float, data: st.DataObject) -> None:
    """Wherever it hides, also when the same object is in there twice."""
    places: list[Any] = [[value, bad], {"a": None, "b": {"c": [bad, bad]}}, [bad], bad, ("g" * 8, bad, "\x7f\xff")]
    with pytest.raises(InvalidState, match=r"NaN|Infinity"):
        to_json(data.draw(st.sampled_from(places)))


def test_every_bit_pattern_of_nan_is_found() -> None:
    for payload in (1, 2**51, 2**51 + 1, 2**52 - 1):
        for sign in (0, 1):
            bad = struct.unpack("<d", struct.pack("<Q", sign << 63 | 0x7FF << 52 | payload))[0]
            with pytest.raises(InvalidState, match="NaN"):
                to_json([None, bad])


def deep(depth: int, wrap: Callable[[object], object]) -> object:
    value: object = 0
    for _ in range(depth):
        value = wrap(value)
    return value


SHAPES: list[Callable[[object], object]] = [
    lambda inner: (inner,),
    lambda inner: (inner, 1),
    lambda inner: (None, inner, None),
    lambda inner: [inner],
    lambda inner: {"a": inner},
    lambda inner: ([inner],),
    lambda inner: Endless(a=(inner,)),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("depth", [251, 254, 260, 700, 1030, 1999, 2001, 20_000])
def test_nothing_deeper_than_the_limit_gets_through_whatever_it_is_made_of(
    shape: Callable[[object], object], depth: int
) -> None:
    """Orjson counts no tuple that is in a tuple: it wrote 1030 of them, which it cannot read, and crashed on more."""
    with pytest.raises(InvalidState, match="nested"):
        to_json(deep(depth, shape))


@pytest.mark.parametrize("shape", SHAPES[:5])
def test_everything_down_to_the_limit_gets_through(shape: Callable[[object], object]) -> None:
    for depth in range(240, 251):
        assert orjson.loads(to_json(deep(depth, shape)))
    assert to_json(deep(249, lambda inner: [inner] if inner else []))


def test_a_subclass_hides_nothing_behind_methods_of_its_own() -> None:
    class Liar(dict[str, float]):
        def items(self) -> Any:
            return []

    class Denier(list[float]):
        def __iter__(self) -> Any:
            return iter([])

    for value in (Liar(a=float("nan")), Denier([float("nan")])):
        with pytest.raises(InvalidState, match="NaN"):
            to_json(value)


def test_a_state_too_deep_for_the_call_stack_is_refused_without_a_traceback() -> None:
    def below(frames: int) -> None:
        if frames:
            below(frames - 1)
        else:
            to_json(deep(240, lambda inner: {"a": inner, "e": Colour.RED}))

    with pytest.raises(InvalidState, match="too deep for a call from here"):
        below(sys.getrecursionlimit() - 400)


def test_threads_look_through_their_states_side_by_side() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(to_json, [{"a": [None]}] * 500)) == {b'{"a":[null]}'}


def test_equality_is_that_of_json() -> None:
    assert same_json({"a": 1, "b": [2]}, {"b": [2], "a": 1})
    assert not same_json({"a": 1}, {"a": True})
    assert not same_json({"a": 1}, {"a": 1.0})
    assert not same_json([1, 2], [2, 1])


@pytest.mark.parametrize("meta", [{"a": float("nan")}, {"a": "x" * 33_000}, [], "text", {1: 1}])
def test_a_meta_that_is_no_small_json_object_is_refused(meta: Any) -> None:
    with open_store("memory://") as store, pytest.raises(InvalidState, match=r"^meta"):
        store.save(KEY, 0, {}, meta=meta)


def test_a_result_larger_than_a_header_holds_is_refused_and_the_run_goes_on() -> None:
    with open_store("memory://") as store:
        run = store.resume("g", "a")
        run.commit({})
        with pytest.raises(InvalidState, match=r"^result: 33033 bytes .* belong in the state"):
            run.finish("x" * 33_000)
        assert run.commit({"more": 1}) == 1
        assert not run.finished


def test_a_state_that_is_changed_later_does_not_change_what_was_saved() -> None:
    with open_store("memory://") as store:
        state = {"messages": [1]}
        saved = store.save(KEY, 0, state)
        state["messages"].append(2)
        saved.state["messages"].append(3)
        assert load(store) == {"messages": [1]}


def load(store: Store) -> object:
    found = store.latest(KEY)
    assert found
    return found.state
