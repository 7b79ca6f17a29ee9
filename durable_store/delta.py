"""Which records a run's next one builds on, and what its state copies from them.

A run's records make a ladder. A snapshot stands at its foot, and each delta builds on the record before it, or on one
further down: it takes in whatever on top weighs no more than itself, so that rungs double in weight as in a binary
counter. Each byte is so written about half as often as there are rungs, and a reader fetches at most `MAX_BASES`
records beside its own. docs/notes/0005-deltas.md has the figures.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from durable_store.body import LITERAL, Body, Piece, Pieces, spliced

MAX_BASES = 8
LEAST = 8 * 2**10
"""Bytes of a state's JSON below which it is kept whole, and as it is."""

_MAX_PIECES = 1000  # a state that changes in more places is kept whole
_STRIDE = 2**16
_ANCHOR = 32  # bytes that must be found again behind a difference, for a copy to go on there


class Rung(NamedTuple):
    """A record that later ones may build on, what its state is made of, and how many bytes of that are literals."""

    step: int
    digest: str
    pieces: Pieces
    weight: int


class Ladder(NamedTuple):
    """The rungs that a run's next record may build on: those that its last one did, and that one itself on top."""

    rungs: tuple[Rung, ...] = ()

    def next(self, old: bytes, new: bytes) -> "Plan":
        """What the record of the new state builds on; `old` is the state of the topmost rung."""
        if len(new) < LEAST or not self.rungs:
            return _whole(new)
        rungs, pieces = list(self.rungs), difference(self.rungs[-1].step, old, new)
        while rungs and (rungs[-1].weight <= _weight(pieces) or len(rungs) > MAX_BASES):
            pieces = _through(pieces, rungs.pop())
        pays = rungs and len(pieces) <= _MAX_PIECES and 2 * _weight(pieces) <= len(new)
        return Plan(tuple(rungs), pieces, new) if pays else _whole(new)


class Plan(NamedTuple):
    """How a record is to be made: on which rungs, of which pieces."""

    rungs: tuple[Rung, ...]
    pieces: list[Piece]
    state: bytes

    def body(self) -> Body:
        """The record's body."""
        if len(self.state) < LEAST:
            return Body(self.state)
        bases = [(rung.step, rung.digest) for rung in self.rungs]
        return (spliced(self.pieces, self.state, bases) if bases else Body(self.state)).packed()

    def ladder(self, step: int, digest: str) -> Ladder:
        """The ladder once that record is there."""
        if len(self.state) < LEAST:
            return Ladder()
        return Ladder((*self.rungs, Rung(step, digest, Pieces(self.pieces), _weight(self.pieces))))


def _whole(state: bytes) -> Plan:
    return Plan((), [Piece(LITERAL, 0, len(state))], state)


def difference(base: int, old: bytes, new: bytes) -> list[Piece]:
    """The new state as pieces of the old one, which is that of step `base`, and literals.

    Finds what goes on alike behind a change, also when it has moved; not what now stands in another order.
    """
    pieces: list[Piece] = []
    i, at = 0, 0  # in old, in new
    while at < len(new) and len(pieces) <= _MAX_PIECES:
        same = _common(old, i, new, at)
        if same:
            pieces.append(Piece(base, i, same))
            i, at = i + same, at + same
        found = _found_again(old, i, new, at)
        if not found:
            break
        i, until = found
        if until > at:
            pieces.append(Piece(LITERAL, at, until - at))
        at = until
    if at < len(new):
        pieces.append(Piece(LITERAL, at, len(new) - at))
    return pieces


def _common(old: bytes, i: int, new: bytes, at: int) -> int:
    """How many bytes are the same from old[i] and new[at] on."""
    same, stride = 0, _STRIDE
    most = min(len(old) - i, len(new) - at)
    while stride:
        while same + stride <= most and new.startswith(old[i + same : i + same + stride], at + same):
            same += stride
        stride //= 2
    return same


def _found_again(old: bytes, i: int, new: bytes, at: int) -> tuple[int, int] | None:
    """Where both go on alike behind old[i] and new[at]: with something replaced or put in, or with something gone."""
    further = 0
    while further < len(old) - i:
        reach = 4 * further + 2**12
        start = i + further
        found = new.find(old[start : start + _ANCHOR], at, at + reach)
        if found >= 0 and start + _ANCHOR <= len(old):
            back = _common_before(old, start, new, found, min(further, found - at))
            return start - back, found - back
        found = old.find(new[at : at + _ANCHOR], i, i + reach)
        if found >= 0 and at + _ANCHOR <= len(new):
            return found, at
        further = max(_ANCHOR, 2 * further)
    return None


def _common_before(old: bytes, i: int, new: bytes, at: int, most: int) -> int:
    """How many bytes are the same in front of old[i] and new[at], up to `most`."""
    same, stride = 0, _STRIDE
    while stride:
        while same + stride <= most and new.endswith(old[i - same - stride : i - same], 0, at - same):
            same += stride
        stride //= 2
    return same


def _through(pieces: Iterable[Piece], rung: Rung) -> list[Piece]:
    """The same bytes, where what was copied from this rung is what that is made of."""
    return _joined(_replaced(pieces, rung))


def _replaced(pieces: Iterable[Piece], rung: Rung) -> Iterator[Piece]:
    at = 0
    for piece in pieces:
        if piece.source != rung.step:
            yield piece
            at += piece.length
            continue
        for part in rung.pieces.cut(piece.offset, piece.length):
            yield Piece(LITERAL, at, part.length) if part.source == LITERAL else part
            at += part.length


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last and last.source == piece.source and last.offset + last.length == piece.offset:
            joined[-1] = Piece(last.source, last.offset, last.length + piece.length)
        else:
            joined.append(piece)
    return joined


def _weight(pieces: Iterable[Piece]) -> int:
    return sum(piece.length for piece in pieces if piece.source == LITERAL)
