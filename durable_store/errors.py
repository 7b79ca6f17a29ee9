"""The errors, by what a caller would do about them.

====================== ==============================================================
correct the call       `InvalidArgument`: `InvalidKey`, `InvalidState`, `InvalidURL`
look elsewhere         `CheckpointNotFound`
stop                   `CheckpointConflict`: another writer owns what you are writing
decide what to do      `CheckpointDamaged`: it is there and cannot be trusted
upgrade                `CheckpointUnsupported`: a newer version wrote it
try again              `StoreUnavailable`
====================== ==============================================================
"""


def shown(value: object) -> str:
    """A value as an error message shows it: short, and without an error of its own."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a caller's __repr__ may raise anything, and an int of 5000 digits does
        return f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:79]}…"


def count_of(count: int, thing: str) -> str:
    """`1 step`, `1,234 steps`."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


class DurableStoreError(Exception):
    """Every error that this library raises on purpose."""


class InvalidArgument(DurableStoreError, ValueError):
    """A value that no store could take; nothing was read or written."""


class InvalidKey(InvalidArgument):
    """A goal id, episode number, checkpoint id or step that cannot be part of a key."""


class InvalidState(InvalidArgument):
    """A state, meta or result that JSON would lose or cannot hold; the message names the first offender's path."""


class InvalidURL(InvalidArgument):
    """A store URL that names no usable backend, has an unknown option, or carries credentials."""


class CheckpointNotFound(DurableStoreError, KeyError):
    """There is no such checkpoint or episode."""

    # KeyError would show the repr of its argument, quotes and all.
    __str__ = Exception.__str__


class CheckpointConflict(DurableStoreError):
    """Another writer has this step, this run or this episode.

    Not to be retried: a run that gets it was superseded and must stop. It does not say that nothing was saved.
    """


class CheckpointDamaged(DurableStoreError):
    """A record is there, and it is not what was written, or not where it was written. Never the same as absent."""


class CheckpointUnsupported(CheckpointDamaged):
    """A record that a newer version wrote. Nothing ever skips it: older state must not pass for the latest."""


class StoreUnavailable(DurableStoreError):
    """The storage is unreachable, refused, full or closed; the cause is chained.

    `maybe_saved` is True when a save was sent and its outcome cannot be known: only then may the record be
    there, or still appear.
    """

    def __init__(self, message: str, *, maybe_saved: bool = False) -> None:
        super().__init__(message)
        self.maybe_saved = maybe_saved
