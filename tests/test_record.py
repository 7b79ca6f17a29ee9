"""Format 1, byte by byte: what is written, and that nothing else is ever read."""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from durable_store import (
    CheckpointConflict,
    CheckpointDamaged,
    CheckpointKey,
    CheckpointUnsupported,
    Store,
    open_store,
)

KEY = CheckpointKey("g", 3, "a")
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.ckpt"))


@pytest.fixture
def store() -> Iterator[Store]:
    with open_store("memory://") as opened:
        yield opened


def seal(header: dict[str, Any] | bytes, body: bytes) -> bytes:
    """A record with a right digest, whatever its header says."""
    line = header if isinstance(header, bytes) else json.dumps(header).encode()
    rest = line + b"\n" + body
    return sha256(rest).hexdigest().encode() + b" " + rest


def sound_header(**changes: Any) -> dict[str, Any]:
    header: dict[str, Any] = {
        "v": 1,
        "goal": "g",
        "episode": 3,
        "checkpoint": "a",
        "step": 5,
        "id": "0" * 32,
        "writer": "somebody",
        "saved_at": "2026-01-02T03:04:05.000006Z",
        "type": "json",
        "encoding": [],
        "bases": [],
        "live": [],
        "prev": None,
        "size": 7,
        "meta": {},
    }
    return header | changes


def header_of(record: bytes) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(record[65 : record.index(b"\n")])
    return line


def plant(store: Store, record: bytes, step: int = 5) -> None:
    assert store.backend.save(KEY, step, record) == record


def test_a_record_is_a_digest_a_header_line_and_the_states_json(store: Store) -> None:
    store.save(KEY, 5, {"n": "é"}, meta={"by": "me"})
    record = store.backend.load(KEY, 5)
    assert record
    digest, _, rest = record.partition(b" ")
    line, _, body = rest.partition(b"\n")
    assert digest.decode() == sha256(rest).hexdigest()
    assert line.startswith(b'{"v":1,"goal":"g","episode":3,"checkpoint":"a","step":5,"id":"')
    assert body == '{"n":"é"}'.encode()
    header = json.loads(line)
    assert re.fullmatch(r"[0-9a-f]{32}", header.pop("id"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", header.pop("saved_at"))
    assert header.pop("writer")
    assert header == {
        "v": 1,
        "goal": "g",
        "episode": 3,
        "checkpoint": "a",
        "step": 5,
        "type": "json",
        "encoding": [],
        "bases": [],
        "live": [],
        "tops": [],
        "prev": None,
        "size": 10,
        "meta": {"by": "me"},
    }


def test_each_save_call_has_an_id_of_its_own(store: Store) -> None:
    store.save(KEY, 5, 1)
    store.save(KEY, 6, 1)
    first, second = store.backend.load(KEY, 5), store.backend.load(KEY, 6)
    assert first
    assert second
    assert header_of(first)["id"] != header_of(second)["id"]


def test_any_flipped_removed_or_added_byte_is_damage(store: Store) -> None:
    store.save(KEY, 5, {"n": [1]}, meta={"m": 1})
    record = store.backend.load(KEY, 5)
    assert record
    spoiled = [
        record[:at] + bytes([record[at] ^ bit]) + record[at + 1 :] for at in range(len(record)) for bit in (1, 32)
    ]
    spoiled += [record[:at] + record[at + 1 :] for at in range(len(record))]
    spoiled += [record[:at] + extra + record[at:] for at in range(len(record) + 1) for extra in (b"0", b"\n", b" ")]
    for wrong in spoiled:
        store.backend.prune(KEY, [5])
        plant(store, wrong)
        with pytest.raises(CheckpointDamaged, match=r"^g/3/a step 5"):
            store.latest(KEY)


@pytest.mark.parametrize("length", range(0, 300, 7))
def test_a_truncated_record_is_damage(store: Store, length: int) -> None:
    store.save(KEY, 5, {"n": "x" * 200})
    record = store.backend.load(KEY, 5)
    assert record
    store.backend.prune(KEY, [5])
    plant(store, record[:length])
    with pytest.raises(CheckpointDamaged):
        store.latest(KEY)


@pytest.mark.parametrize(
    "to",
    [
        (CheckpointKey("g", 3, "a"), 6),
        (CheckpointKey("g", 4, "a"), 5),
        (CheckpointKey("h", 3, "a"), 5),
        (CheckpointKey("g", 3, "b"), 5),
    ],
)
def test_a_record_copied_to_another_step_episode_goal_or_checkpoint_is_damage(
    store: Store, to: tuple[CheckpointKey, int]
) -> None:
    store.save(KEY, 5, 1)
    record = store.backend.load(KEY, 5)
    assert record
    store.backend.save(*to, record)
    with pytest.raises(CheckpointDamaged, match="copied here"):
        store.latest(to[0])


def test_a_sound_record_made_by_hand_is_read(store: Store) -> None:
    plant(store, seal(sound_header(), b'{"a":1}'))
    found = store.latest(KEY)
    assert found
    assert found.state == {"a": 1}
    assert found.saved_at.isoformat() == "2026-01-02T03:04:05.000006+00:00"


def test_an_unknown_field_of_any_depth_is_ignored_too(store: Store) -> None:
    plant(
        store, seal(json.dumps(sound_header()).encode()[:-1] + b',"x":' + b"[" * 1000 + b"]" * 1000 + b"}", b'{"a":1}')
    )
    assert store.load(KEY, 5).state == {"a": 1}


def test_what_another_program_nested_deeper_than_we_can_is_read_and_is_another_state(store: Store) -> None:
    deep = b"[" * 300 + b"]" * 300
    plant(store, seal(sound_header(size=len(deep)), deep))
    assert store.load(KEY, 5).size == 600
    with pytest.raises(CheckpointConflict):
        store.save(KEY, 5, {"a": 1})


def test_unknown_fields_are_ignored(store: Store) -> None:
    plant(store, seal(sound_header(later=1, crit=["v", "closing"]), b'{"a":1}'))
    assert store.load(KEY, 5).state == {"a": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"v": 2.0},
        {"v": 2**64},
        {"v": 99, "goal": 1},
        {"crit": ["v", "lease"]},
        {"crit": "x"},
        {"crit": [[1]]},
        {"type": "bytes"},
        {"encoding": ["lz77"]},
    ],
)
def test_a_newer_record_is_unsupported_and_nothing_skips_it(store: Store, changes: dict[str, Any]) -> None:
    store.save(KEY, 4, "older")
    store.save(KEY, 3, "oldest")
    plant(store, seal(sound_header(**changes), b'{"a":1}'))
    with pytest.raises(CheckpointUnsupported, match="upgrade durable-store"):
        store.latest(KEY)
    with pytest.raises(CheckpointUnsupported):
        store.latest(KEY, skip_damaged=True)
    with pytest.raises(CheckpointUnsupported):
        store.load(KEY, 5)
    with pytest.raises(CheckpointUnsupported):
        store.save(KEY, 5, {"a": 1})
    with pytest.raises(CheckpointUnsupported):
        store.prune(KEY, keep=1)
    for _ in range(4):
        store.start_episode("g")
    with pytest.raises(CheckpointUnsupported):
        store.resume("g", "a", episode_id=3)
    assert store.backend.steps(KEY) == [5, 4, 3]


def test_a_newer_version_is_unsupported_also_without_a_digest_that_this_one_knows(store: Store) -> None:
    plant(store, b"blake3:abc " + json.dumps(sound_header(v=2)).encode() + b"\n{}")
    with pytest.raises(CheckpointUnsupported):
        store.latest(KEY)


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 0},
        {"v": True},
        {"v": "1"},
        {"v": None},
        {"goal": 7},
        {"episode": True},
        {"step": "5"},
        {"id": 1},
        {"writer": None},
        {"saved_at": "yesterday"},
        {"saved_at": "2026-01-02T03:04:05"},
        {"saved_at": "20260102"},
        {"saved_at": "2026-01-02T03:04:05.000006+01:00"},
        {"saved_at": 5},
        {"type": None},
        {"encoding": "zstd"},
        {"encoding": [1]},
        {"bases": [[4]]},
        {"bases": [["4", "0" * 64]]},
        {"bases": {}},
        {"live": [-1]},
        {"live": [True]},
        {"live": None},
        {"prev": [4, "short"]},
        {"prev": 4},
        {"size": -1},
        {"size": 6},
        {"size": 2**40},
        {"size": "7"},
        {"meta": None},
        {"meta": []},
        {"closing": None},
        {"closing": {"status": "finished"}},
        {"closing": {"status": "maybe", "result": 1}},
        {"closing": {"status": "finished", "result": json.loads("[" * 300 + "]" * 300)}},
    ],
)
def test_a_header_that_is_wrong_is_damage_also_under_a_right_digest(store: Store, changes: dict[str, Any]) -> None:
    plant(store, seal(sound_header(**changes), b'{"a":1}'))
    with pytest.raises(CheckpointDamaged, match=r"^g/3/a step 5 is damaged: ") as caught:
        store.latest(KEY)
    assert not isinstance(caught.value, CheckpointUnsupported)


@pytest.mark.parametrize("missing", list(sound_header()))
def test_a_header_that_lacks_a_field_is_damage(store: Store, missing: str) -> None:
    header = sound_header()
    del header[missing]
    plant(store, seal(header, b'{"a":1}'))
    with pytest.raises(CheckpointDamaged):
        store.latest(KEY)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"v":1',
        b"\xff",
        b" " * 70_000,
        b"[" * 5000,
    ]
    + [json.dumps(sound_header()).encode()[:-1] + twin for twin in (b',"size":7}', b',"meta":{"a":1,"a":2}}')],
)
def test_a_header_that_is_no_object_or_too_long_or_names_a_field_twice_is_damage(store: Store, line: bytes) -> None:
    plant(store, seal(line, b'{"a":1}'))
    with pytest.raises(CheckpointDamaged):
        store.latest(KEY)


def test_a_body_that_is_no_json_is_damage(store: Store) -> None:
    plant(store, seal(sound_header(), b"{'a':1}"))
    with pytest.raises(CheckpointDamaged, match="no JSON"):
        store.latest(KEY)


def test_a_base_that_is_gone_or_another_damages_what_builds_on_it(store: Store) -> None:
    store.save(KEY, 4, "base")
    base = store.backend.load(KEY, 4)
    assert base
    plant(store, seal(sound_header(bases=[[4, base[:64].decode()]]), b'{"a":1}'))
    assert store.load(KEY, 5).state == {"a": 1}
    store.backend.prune(KEY, [4])
    with pytest.raises(CheckpointDamaged, match="its base, step 4, is gone"):
        store.latest(KEY)
    store.save(KEY, 4, "another")
    with pytest.raises(CheckpointDamaged, match="its base, step 4, is another"):
        store.latest(KEY)
    store.backend.prune(KEY, [4])
    store.backend.save(KEY, 4, base[:-1] + b"'")
    with pytest.raises(CheckpointDamaged, match=r"step 5 is damaged: its base, step 4: .*do not match its digest"):
        store.latest(KEY)


def test_prune_keeps_the_bases_of_what_it_keeps(store: Store) -> None:
    for step in range(5):
        store.save(KEY, step, step)
    base = store.backend.load(KEY, 1)
    assert base
    plant(store, seal(sound_header(bases=[[1, base[:64].decode()]]), b'{"a":1}'))
    assert store.prune(KEY, keep=2) == [0, 2, 3]
    assert store.backend.steps(KEY) == [5, 4, 1]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_records_are_read_for_ever(store: Store, path: Path) -> None:
    expected = json.loads(path.with_suffix(".json").read_text())
    key = CheckpointKey.parse(expected["key"])
    for other in GOLDEN:  # its bases are among them
        facts = json.loads(other.with_suffix(".json").read_text())
        if facts["key"] == expected["key"]:
            assert store.backend.save(key, facts["step"], other.read_bytes()) == other.read_bytes()
    found = store.load(key, expected["step"])
    assert found.state == expected["state"]
    assert found.meta == expected["meta"]
    assert found.writer == expected["writer"]
    assert found.saved_at.isoformat() == expected["saved_at"]
    if "result" in expected:
        run = store.resume(key.goal_id, key.checkpoint_id, episode_id=store.start_episode(key.goal_id, root="other"))
        assert (run.finished, run.result) == (True, expected["result"])


def test_there_are_golden_records_of_format_1_in_each_encoding() -> None:
    headers = [json.loads(path.read_bytes().partition(b" ")[2].partition(b"\n")[0]) for path in GOLDEN]
    assert {header["v"] for header in headers} == {1}
    encodings = {tuple(header["encoding"]) for header in headers}
    assert encodings == {(), ("zstd",), ("splice",), ("splice", "zstd")}
