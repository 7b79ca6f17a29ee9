"""Ids that file systems, databases, URLs and careless code confuse: all are valid, and no two are one."""

import itertools
import unicodedata

from durable_store import CheckpointKey
from durable_store.backend import Backend, open_backend
from durable_store.key import MAX_EPISODE
from durable_store_conformance.process import OtherProcesses
from durable_store_conformance.registry import clause

_PATHS = [".", "..", "...", ".a", "a.", "a..", "../a", "a/../b", "/", "//", "/a", "a/", "a/b", "a//b", "~", "~root"]
_ESCAPES = [
    "\\",
    "a\\b",
    "%",
    "%2e",
    "%2E",
    "%2e%2e",
    "%2f",
    "a%2fb",
    "a%2Fb",
    "%252e",
    "%00",
    "%zz",
    "+",
    "a b",
    "a+b",
]
_WINDOWS = [
    "CON",
    "con",
    "con.txt",
    "Con",
    "nul",
    "NUL",
    "nul.",
    "aux",
    "prn",
    "com1",
    "lpt9",
    "c:",
    "c:\\a",
    "a:b",
    "a~1",
]
_SPACES = [" ", "  ", " a", "a ", "a", "\t", "a\t", "\n", "a\nb", "a\r\nb", "\r", "\x85", "\u00a0", "\u2028", "\u3000"]
_CONTROLS = ["\0", "a\0", "a\0b", "\x01", "\x1b[31m", "\x7f", "\x80", "\x9f", "\ufeff", "\ufeffa", "a\u200b", "\u202ea"]
_SYNTAX = [
    *(
        "'",
        '"',
        "''",
        "`",
        "'; DROP TABLE durable_store_checkpoints; --",
        "a' OR '1'='1",
        "$a",
        "${a}",
        "$(a)",
        "{}",
        "{0}",
    ),
    *(
        "*",
        "?",
        "[a]",
        "a*",
        "_",
        "a_b",
        "%a",
        "#",
        "a#b",
        "?a=b",
        "&",
        "=",
        ";",
        ",",
        "|",
        "<",
        ">",
        "!",
        "(",
        "-",
        "--",
    ),
    *("@x", "@episode", "@", "x@", "0", "00", "-1", "1e3", "None", "null", "True", ".ckpt", "0.ckpt", "a.ckpt", ".tmp"),
]
_CASES = [
    "Goal",
    "goal",
    "GOAL",
    "\u0130",
    "i",
    "I",
    "\u0131",
    "\u00df",
    "ss",
    "\u1e9e",
    "\u03c3",
    "\u03c2",
    "\u212a",
    "k",
    "K",
]
_TEXT = "\u00e9\u1e69\uac00"
_FORMS = [unicodedata.normalize(form, _TEXT) for form in ("NFC", "NFD")]
_COMPATIBLE = ["\ufb01", "fi", "\u2460", "1", "\u00b2", "2", "\uff41", "\u2126", "\u03a9"]
_SCRIPTS = ["שלום", "مرحبا", "日本語", "ไทย", "नमस्ते", "\U0001f9d1\u200d\U0001f680", "\U0001f1e9\U0001f1ea"]
_PLANES = [chr(plane * 0x10000 + offset) for plane in range(17) for offset in (0x1234, 0xFFFE, 0xFFFF)]
_LONG = ["a" * 200, "a" * 199, "a" * 199 + "b", "A" * 66, "\u00e9" * 33, "\U0001f9d1" * 16, "x" * 128, "x" * 129]
_GROUPS = {
    "paths": _PATHS,
    "escapes": _ESCAPES,
    "Windows names": _WINDOWS,
    "spaces": _SPACES,
    "control characters": _CONTROLS,
    "syntax": _SYNTAX,
    "case pairs": _CASES,
    "NFC and NFD": _FORMS,
    "compatible characters": _COMPATIBLE,
    "scripts": _SCRIPTS,
    "planes": _PLANES,
    "200 bytes": _LONG,
}
_SAME_WHEN_JOINED = [
    CheckpointKey("a/0", 0, "b"),
    CheckpointKey("a", 0, "0/b"),
    CheckpointKey("a", 0, "b"),
    CheckpointKey("a/0/b", 0, "c"),
    CheckpointKey("a", 0, "b/0/c"),
    CheckpointKey("a", 1, "1"),
    CheckpointKey("a1", 1, "1"),
    CheckpointKey("a", 11, "1"),
    CheckpointKey("1", 1, "a"),
    CheckpointKey("a", 1, "11"),
    CheckpointKey("000000001", 1, "000000001"),
]


def _record(key: CheckpointKey) -> bytes:
    return repr(key).encode()


def _all_are_there(backend: Backend, keys: list[CheckpointKey]) -> None:
    for key in keys:
        assert backend.load(key, 0) == _record(key)
        assert backend.latest(key) == (0, _record(key))
    assert sorted(backend.keys()) == sorted(keys)
    for goal in {key.goal_id for key in keys}:
        assert sorted(backend.keys(goal)) == sorted(key for key in keys if key.goal_id == goal)


@clause("DS-ID-01", "Every id is valid on every backend or on none.", part=["goal", "checkpoint"], names=_GROUPS)
def confusable_ids_are_kept_apart(backend: Backend, url: str, part: str, names: list[str]) -> None:
    """A record of its own under each: each comes back, and keys() gives exactly these."""
    if part == "goal":
        keys = [CheckpointKey(name, 0, "agent-0") for name in names]
    else:
        keys = [CheckpointKey("goal", 0, name) for name in names]
    for key in keys:
        assert backend.save(key, 0, _record(key)) == _record(key), f"{key!r} meets another key"
    _all_are_there(backend, keys)
    another = open_backend(url)
    try:
        _all_are_there(another, keys)
    finally:
        another.close()


@clause("DS-ID-02", "each under a key and a step")
def keys_that_read_the_same_when_joined_are_kept_apart(backend: Backend) -> None:
    """Where one part ends and the next begins is never guessed."""
    for key in _SAME_WHEN_JOINED:
        assert backend.save(key, 0, _record(key)) == _record(key), f"{key!r} meets another key"
    _all_are_there(backend, _SAME_WHEN_JOINED)


@clause("DS-ID-04", "Every id is valid on every backend or on none.")
def the_longest_ids_may_meet_in_one_key(backend: Backend, reopened: Backend) -> None:
    """A goal and a checkpoint of 200 bytes, plain or as long as encoding makes them, in the highest episode."""
    keys = [CheckpointKey(goal, MAX_EPISODE, name) for goal, name in itertools.product(_LONG[2:6], repeat=2)]
    for key in keys:
        assert backend.save(key, 0, _record(key)) == _record(key), f"{key!r} meets another key"
    _all_are_there(reopened, keys)


@clause("DS-ID-03", "Whose state this is: the same in every process that works on it, and in no other.")
def another_process_finds_each_id(backend: Backend, another_process: OtherProcesses) -> None:
    """The same key in another process is the same key: nothing of a name is this process's own."""
    names = [*_PATHS, *_CONTROLS, *_CASES, *_FORMS, *_SCRIPTS]
    keys = [CheckpointKey(name, 0, name) for name in names]
    for key in keys:
        backend.save(key, 0, _record(key))
    process = another_process()
    assert sorted(process.backend("keys")) == sorted(keys)
    for key in keys:
        assert process.backend("latest", key) == [0, _record(key)]
