"""What a checkpoint is kept under: a stable triple key, and a step.

An invalid key cannot exist: `CheckpointKey` checks itself, and nothing behind it checks again. Every id is
valid on every backend or on none.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from durable_store.errors import InvalidKey, shown

MAX_EPISODE = 999_999_999
"""Nine digits, the width of an episode in paths."""

MAX_STEP = 2**53 - 1
"""The largest integer that every JSON reader holds exactly."""

MAX_NAME = 200
"""Bytes of an id as a storage name: below every file system's 255, and two of them fit an S3 key of 1024."""

EPISODE_ID = "@episode"
"""The checkpoint id under which a store keeps its own records about an episode."""

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
_NAME_OF_BYTE = tuple(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in range(256))
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: reserved also with an extension.
_RESERVED_ON_WINDOWS = frozenset(
    ("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)))
)
_ESCAPED_IN_TEXT = {
    code: "".join(f"%{byte:02x}" for byte in chr(code).encode()) for code in (*b"/%", *range(32), *range(0x7F, 0xA0))
}


@dataclass(frozen=True, slots=True, order=True)
class CheckpointKey:
    """Whose state this is: the same in every process that works on it, and in no other.

    Attributes:
        goal_id: what is being worked on. An int is accepted and becomes its decimal text.
        episode_id: which attempt at it, 0 to 999 999 999.
        checkpoint_id: whose state, `"{role}-{depth}"` for an agent. Never a name with a random part.

    Raises:
        InvalidKey: an id is empty, holds a lone surrogate or is longer than 200 bytes as a storage name; the
            episode is no int in its range (`True` is no int here).

    `str(key)` is the text form, `PROJ-1/0/orchestrator-0`; `CheckpointKey.parse(str(key)) == key`.
    """

    goal_id: str
    episode_id: int
    checkpoint_id: str

    if TYPE_CHECKING:  # dataclass would type the first parameter as the attribute is: without int

        def __init__(self, goal_id: str | int, episode_id: int, checkpoint_id: str) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "goal_id", goal_text(self.goal_id))
        object.__setattr__(self, "episode_id", _whole("episode_id", self.episode_id, MAX_EPISODE))
        object.__setattr__(self, "checkpoint_id", _id("checkpoint_id", self.checkpoint_id))

    def __str__(self) -> str:
        return f"{_text(self.goal_id)}/{self.episode_id}/{_text(self.checkpoint_id)}"

    @classmethod
    def parse(cls, text: str) -> "CheckpointKey":
        """The key whose text form this is.

        Raises:
            InvalidKey: it is no key's text form; a key has exactly one.
        """
        parts = text.split("/") if isinstance(text, str) else []
        if len(parts) != 3 or not parts[1].isdecimal() or len(parts[1]) > 9:
            raise InvalidKey(f"{shown(text)} is no key: a key is GOAL/EPISODE/CHECKPOINT, like PROJ-1/0/orchestrator-0")
        key = cls(_unescape(parts[0]), int(parts[1]), _unescape(parts[2]))
        if str(key) != text:
            raise InvalidKey(f"{text!r} is not how this key is written: write {str(key)!r}")
        return key


def goal_text(goal_id: str | int) -> str:
    """The goal id as a checked string: an int becomes its decimal text. Raises InvalidKey."""
    if isinstance(goal_id, int) and not isinstance(goal_id, bool):
        if abs(goal_id) >= 10**MAX_NAME:
            raise InvalidKey(f"goal_id has more than {MAX_NAME} digits")
        goal_id = str(int(goal_id))
    return _id("goal_id", goal_id)


def goal_from_text(text: str) -> str:
    """The goal id of its text form, as it stands in a key's before the first `/`. Raises InvalidKey."""
    if "/" in goal_text(text):
        raise InvalidKey(f"{shown(text)} is no goal as a key shows it: that is all in front of the first /")
    return CheckpointKey.parse(f"{text}/0/-").goal_id


def check_step(step: int) -> int:
    """The step itself, 0 to 2**53 - 1. Raises InvalidKey for anything else; a bool is no step."""
    return _whole("step", step, MAX_STEP)


def storage_name(part: str) -> str:
    """An id as a path or object name can hold it, at most 200 ASCII characters.

    `a-z 0-9 - _ .` stand for themselves, every other byte of the UTF-8 is `%xx`: upper case too, because `Goal`
    and `goal` must not meet on a disk that ignores case; and a leading or trailing `.`, and the first letter of a
    name that Windows reserves.
    """
    name = "".join(map(_NAME_OF_BYTE.__getitem__, part.encode()))
    if name.startswith("."):
        name = "%2e" + name[1:]
    if name.endswith("."):
        name = name[:-1] + "%2e"
    if name.partition(".")[0] in _RESERVED_ON_WINDOWS:
        name = f"%{ord(name[0]):02x}{name[1:]}"
    return name


def id_from_storage_name(name: str) -> str | None:
    """The id that `storage_name` made this name of, or None: a second spelling is not ours."""
    try:
        part = _id("id", _unescape(name))
    except InvalidKey:
        return None
    return part if storage_name(part) == name else None


def storage_path(key: CheckpointKey) -> str:
    """Where backends with paths or object names keep a key: `<goal>/<episode, 9 digits>/<checkpoint>`."""
    return f"{storage_name(key.goal_id)}/{key.episode_id:09d}/{storage_name(key.checkpoint_id)}"


def object_name(step: int) -> str:
    """A step as object stores name it, so that the newest is the first in the order of bytes that they list in."""
    return f"{2**64 - 1 - step:016x}-{step}"


def step_of_object_name(name: str) -> int | None:
    """The step that `object_name` made this name of, or None: a second spelling is not ours."""
    match = re.fullmatch(r"[0-9a-f]{16}-([0-9]{1,16})", name, re.ASCII)
    step = int(match[1]) if match else -1
    return step if 0 <= step <= MAX_STEP and object_name(step) == name else None


def _id(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidKey(f"{what} must be a string, not {type(value).__name__}: {shown(value)}")
    value = str.__str__(value)  # a plain str, also of an Enum that is one
    if not value:
        raise InvalidKey(f"{what} is empty")
    try:
        name = storage_name(value)
    except UnicodeEncodeError as err:
        raise InvalidKey(f"{what} {shown(value)} holds a lone surrogate, at {err.start}") from err
    if len(name) > MAX_NAME:
        raise InvalidKey(
            f"{what} {value[:40]!r}… takes {len(name)} bytes as a storage name; the most is {MAX_NAME}"
            " (a-z 0-9 - _ . take one byte, all others three for each byte of their UTF-8)"
        )
    return value


def _whole(what: str, value: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidKey(f"{what} must be an int, not {type(value).__name__}: {shown(value)}")
    if not 0 <= value <= most:
        raise InvalidKey(f"{what} must be from 0 to {most}, not {shown(value)}")
    return int(value)


def _text(part: str) -> str:
    return part.translate(_ESCAPED_IN_TEXT)


def _unescape(text: str) -> str:
    """Undoes %xx; what is no valid escape stays, and fails the comparison with the one right spelling."""
    try:
        return re.sub(rb"%([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode()).decode()
    except UnicodeError as err:
        raise InvalidKey(f"{shown(text)} is not UTF-8 behind its %xx") from err
