"""A state's JSON as the body of a record, and back: as it is, packed by zstd, or spliced out of earlier states.

A spliced body is a line of JSON, which lists the pieces in their order: `[base, offset, length]` for a copy, where
`base` counts in the header's `bases`, or the length of a literal; behind its line feed, the literals. A reader goes
through the pieces of all bases before it copies a byte, so that no state in between is ever made.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, cast

import orjson

from durable_store.errors import shown

ENCODINGS = ("splice", "zstd")
"""What this version reads, in this order at most."""

LITERAL = -1

_LEAST_PACKED = 512
_MOST_PIECES_LINE = 2**20


class Body(NamedTuple):
    """What stands behind a header, the transforms that made it of the state's JSON, and the records it builds on."""

    content: bytes
    encoding: tuple[str, ...] = ()
    bases: tuple[tuple[int, str], ...] = ()

    def packed(self) -> "Body":
        """The same by zstd, where that makes it smaller."""
        if len(self.content) < _LEAST_PACKED:
            return self
        from durable_store.zstd import compress  # noqa: PLC0415 - small states never need it

        content = compress(self.content)
        return Body(content, (*self.encoding, "zstd"), self.bases) if len(content) < len(self.content) else self


class Piece(NamedTuple):
    """A run of a state's bytes, copied from `source` at `offset`.

    For a writer the source is the step of a base, whose state has the bytes, or `LITERAL`, and then they stand at
    `offset` of the state itself. For a reader it is the step of a record, whose literals have them.
    """

    source: int
    offset: int
    length: int


class Pieces:
    """What a state is made of."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self.pieces = tuple(pieces)
        self._ends = list(accumulate(piece.length for piece in self.pieces))

    @property
    def length(self) -> int:
        """Bytes of the state."""
        return self._ends[-1] if self._ends else 0

    def cut(self, offset: int, length: int) -> Iterator[Piece]:
        """What so many bytes from an offset on are made of."""
        number = bisect_right(self._ends, offset)
        while length:
            piece = self.pieces[number]
            skipped = offset - (self._ends[number] - piece.length)
            taken = min(piece.length - skipped, length)
            yield Piece(piece.source, piece.offset + skipped, taken)
            offset, length, number = offset + taken, length - taken, number + 1


def spliced(pieces: Sequence[Piece], state: bytes, bases: Sequence[tuple[int, str]]) -> Body:
    """The body of a state that is made of these pieces."""
    numbers = {step: number for number, (step, _) in enumerate(bases)}
    line = [
        piece.length if piece.source == LITERAL else [numbers[piece.source], piece.offset, piece.length]
        for piece in pieces
    ]
    literals = (state[piece.offset : piece.offset + piece.length] for piece in pieces if piece.source == LITERAL)
    return Body(b"".join((orjson.dumps(line), b"\n", *literals)), ("splice",), tuple(bases))


class Reader:
    """Makes a state of a record and its bases, which are added before it, oldest first."""

    def __init__(self) -> None:
        self._literals: dict[int, bytes] = {}
        self._made: dict[int, Pieces] = {}

    def add(self, step: int, body: Body, size: int) -> None:
        """Takes a record's body, of a state with so many bytes.

        Raises:
            ValueError: it is not what its header says; the message goes on behind `its body`.
        """
        content = body.content
        if body.encoding[-1:] == ("zstd",):
            content = _unpacked(content, size if body.encoding == ("zstd",) else size + _MOST_PIECES_LINE)
        if "splice" in body.encoding:
            pieces, content = _read_pieces(content, [base for base, _ in body.bases])
            made = Pieces(self._resolved(step, pieces))
        else:
            made = Pieces([Piece(step, 0, len(content))])
        if made.length != size:
            raise ValueError(f"has {made.length} bytes of state where the header says {size}")
        self._literals[step], self._made[step] = content, made

    def state(self, step: int) -> bytes:
        """The state's JSON of a record that was added."""
        pieces = self._made[step].pieces
        if len(pieces) == 1 and pieces[0].length == len(self._literals[pieces[0].source]):
            return self._literals[pieces[0].source]
        return b"".join(
            memoryview(self._literals[source])[offset : offset + length] for source, offset, length in pieces
        )

    def _resolved(self, step: int, pieces: Iterable[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if piece.source == LITERAL:
                yield Piece(step, piece.offset, piece.length)
                continue
            base = self._made.get(piece.source)
            if base is None:
                raise ValueError(f"builds on step {piece.source}, which its header does not name before it")
            if piece.offset + piece.length > base.length:
                raise ValueError(f"copies what step {piece.source} does not have")
            yield from base.cut(piece.offset, piece.length)


def _read_pieces(content: bytes, bases: Sequence[int]) -> tuple[list[Piece], bytes]:
    """The pieces that a spliced body lists, literals by their place among the literals; and the literals."""
    end = content.find(b"\n", 0, _MOST_PIECES_LINE)
    try:
        line: object = orjson.loads(content[: max(end, 0)])
    except orjson.JSONDecodeError as err:
        raise ValueError("does not begin with a list of pieces") from err
    literals = content[end + 1 :]
    pieces: list[Piece] = []
    at = 0
    for each in cast("list[object]", line) if isinstance(line, list) else [line]:
        piece = _piece(each, bases, at)
        if piece is None:
            raise ValueError(f"lists {shown(each)}, which is no piece")
        pieces.append(piece)
        at += piece.length if piece.source == LITERAL else 0
    if at != len(literals):
        raise ValueError(f"has {len(literals)} bytes of literals where its pieces have {at}")
    return pieces, literals


def _piece(listed: object, bases: Sequence[int], at: int) -> Piece | None:
    if type(listed) is int:
        return Piece(LITERAL, at, listed) if listed > 0 else None
    listed = cast("list[object]", listed) if isinstance(listed, list) else []
    numbers = [number for number in listed if type(number) is int and number >= 0]
    if len(numbers) == len(listed) == 3:
        base, offset, length = numbers
        if base < len(bases) and length:
            return Piece(bases[base], offset, length)
    return None


def _unpacked(content: bytes, most: int) -> bytes:
    from durable_store.zstd import ZstdDecompressor, ZstdError  # noqa: PLC0415 - small states never need it

    decompressor = ZstdDecompressor()
    try:
        unpacked = decompressor.decompress(content, max_length=most + 1)
    except ZstdError as err:
        raise ValueError(f"is no zstd ({err})") from err
    if len(unpacked) > most:
        raise ValueError(f"unpacks to more than the {most} bytes that it may have")
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("is not one whole zstd frame")
    return unpacked
