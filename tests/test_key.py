import enum
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_store import CheckpointKey, InvalidKey
from durable_store.key import MAX_EPISODE, MAX_STEP, check_step, id_from_storage_name, storage_name

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=22).filter(
    lambda text: len(storage_name(text)) <= 200
)
keys = st.builds(CheckpointKey, ids, st.integers(0, MAX_EPISODE), ids)


@given(keys)
def test_parsing_the_text_form_gives_the_key_back(key: CheckpointKey) -> None:
    assert CheckpointKey.parse(str(key)) == key


@given(keys)
def test_the_text_form_is_one_line_of_three_parts_without_control_characters(key: CheckpointKey) -> None:
    assert str(key).count("/") == 2
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", str(key))


@given(ids)
def test_a_storage_name_is_reversible_and_plain(part: str) -> None:
    name = storage_name(part)
    assert re.fullmatch(r"(?:[a-z0-9_.-]|%[0-9a-f]{2})+", name)
    assert name[0] != "."
    assert name[-1] != "."
    assert id_from_storage_name(name) == part


@given(ids, ids)
def test_two_ids_never_share_a_storage_name_nor_differ_in_case_only(one: str, other: str) -> None:
    if one != other:
        assert storage_name(one).casefold() != storage_name(other).casefold()


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("orchestrator-0", "orchestrator-0"),
        ("Goal", "%47oal"),
        (".", "%2e"),
        ("..", "%2e%2e"),
        ("...", "%2e.%2e"),
        ("a.b", "a.b"),
        (".a.", "%2ea%2e"),
        ("a/b", "a%2fb"),
        ("%2e", "%252e"),
        ("con", "%63on"),
        ("con.txt", "%63on.txt"),
        ("console", "console"),
        ("nul", "%6eul"),
        ("aux.", "aux%2e"),
        ("com1", "%63om1"),
        ("lpt9.x.y", "%6cpt9.x.y"),
        ("com10", "com10"),
        ("@episode", "%40episode"),
        ("é", "%c3%a9"),
        ("a b", "a%20b"),
    ],
)
def test_the_storage_name_of(part: str, name: str) -> None:
    assert storage_name(part) == name
    assert id_from_storage_name(name) == part


@pytest.mark.parametrize(
    "name", ["", "%2E", "%61", "A", ".", "a.", "%zz", "%", "%4", "con", "%ff", "%ed%a0%80", "a/b", "é"]
)
def test_a_second_spelling_is_not_ours(name: str) -> None:
    assert id_from_storage_name(name) is None


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (CheckpointKey("PROJ-1", 0, "orchestrator-0"), "PROJ-1/0/orchestrator-0"),
        (CheckpointKey("a/b", 7, "50%\n"), "a%2fb/7/50%25%0a"),
        (CheckpointKey("\x85é ", 1, "@episode"), "%c2%85é /1/@episode"),
    ],
)
def test_the_text_form_escapes_slashes_percents_and_control_characters_only(key: CheckpointKey, text: str) -> None:
    assert str(key) == text
    assert CheckpointKey.parse(text) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a/b",
        "a/b/c",
        "a/-1/c",
        "a/01/c",
        "a/+1/c",
        "a/1_0/c",
        "a/٣/c",
        "a//c",
        "/0/c",
        "a/0/",
        "a/0/b/c",
        "%41/0/c",
        "a/0/%",
        "a/0/%zz",
        "a/0/%C3%A9",
        "a/0/%ff",
        "a/0/b\n",
        "a/9999999999/c",
        "a/" + "9" * 5000 + "/c",
    ],
)
def test_what_is_no_text_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey):
        CheckpointKey.parse(text)


class Number(enum.IntEnum):
    SEVEN = 7


class Name(enum.StrEnum):
    GOAL = "goal"


def test_an_int_goal_becomes_its_decimal_text() -> None:
    assert CheckpointKey(42, 0, "a") == CheckpointKey("42", 0, "a")
    assert CheckpointKey(-1, 0, "a").goal_id == "-1"


def test_members_of_enums_become_plain_values() -> None:
    key = CheckpointKey(Name.GOAL, Number.SEVEN, Name.GOAL)
    assert [type(part) for part in (key.goal_id, key.episode_id, key.checkpoint_id)] == [str, int, str]
    assert str(key) == "goal/7/goal"


@pytest.mark.parametrize(
    "goal", ["", True, None, 1.0, b"a", "\ud800", "a" * 201, "É" * 34, pytest.param(10**5000, id="huge"), ("a",)]
)
def test_a_goal_id_that_no_backend_could_hold_is_refused(goal: Any) -> None:
    with pytest.raises(InvalidKey):
        CheckpointKey(goal, 0, "a")


@pytest.mark.parametrize("checkpoint", ["", 1, None, b"a", "\udfff", "a" * 201, "A" * 67])
def test_a_checkpoint_id_that_no_backend_could_hold_is_refused(checkpoint: Any) -> None:
    with pytest.raises(InvalidKey):
        CheckpointKey("a", 0, checkpoint)


@pytest.mark.parametrize("episode", [-1, 10**9, True, False, "0", 0.0, None, pytest.param(10**5000, id="huge")])
def test_an_episode_is_an_int_of_nine_digits(episode: Any) -> None:
    with pytest.raises(InvalidKey):
        CheckpointKey("a", episode, "a")


@pytest.mark.parametrize("step", [-1, 2**53, True, "0", 0.0, None])
def test_a_step_is_an_int_that_json_holds(step: Any) -> None:
    with pytest.raises(InvalidKey):
        check_step(step)


def test_the_longest_ids_and_highest_numbers_are_valid() -> None:
    key = CheckpointKey("a" * 200, MAX_EPISODE, "\U0010ffff" * 16)
    assert CheckpointKey.parse(str(key)) == key
    assert check_step(MAX_STEP) == MAX_STEP


def test_keys_are_frozen_hashable_and_ordered() -> None:
    key = CheckpointKey("a", 1, "b")
    with pytest.raises(AttributeError):
        key.goal_id = "c"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert {key: 1}[CheckpointKey("a", 1, "b")] == 1
    assert CheckpointKey("a", 9, "z") < CheckpointKey("a", 10, "a") < CheckpointKey("b", 0, "a")
