"""Mistakes about keys: two that become one, one that becomes another, and keys that are listed and should not be."""

import itertools
import re
import secrets
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

from durable_store import CheckpointKey, StoreUnavailable
from durable_store.key import storage_path
from durable_store_backends.files import FileBackend
from durable_store_backends.memory import MemoryBackend
from durable_store_backends.sqlite import SqliteBackend
from tests.mutants.mutant import caught_by


class _Renaming(FileBackend):
    """Good files, for other names than it is given."""

    def name(self, given: str) -> str:
        return given

    def _directory(self, key: CheckpointKey) -> str:
        renamed = CheckpointKey(self.name(key.goal_id), key.episode_id, self.name(key.checkpoint_id))
        return super()._directory(renamed)


@caught_by("DS-ID-01")
class IgnoresCase(_Renaming):
    """Compares ids as a disk of Windows or macOS compares names."""

    def name(self, given: str) -> str:
        return given.casefold()


@caught_by("DS-ID-01")
class NormalisesIds(_Renaming):
    """Brings ids into Unicode's normal form, in which two spellings of é are one."""

    def name(self, given: str) -> str:
        return unicodedata.normalize("NFC", given)


@caught_by("DS-ID-01")
class CutsLongIds(_Renaming):
    """Has its ids in columns of 128 characters, and cuts off what is longer."""

    def name(self, given: str) -> str:
        return given[:128]


@caught_by("DS-ID-04")
class RefusesLongPaths(FileBackend):
    """Has a name for each key that may be 255 bytes long: for a long goal or a long checkpoint id, not for both."""

    def _directory(self, key: CheckpointKey) -> str:
        if len(storage_path(key)) > 255:
            raise StoreUnavailable(f"the name of {key} is too long")
        return super()._directory(key)


@caught_by("DS-ID-01")
class TakesIdsForNumbers(_Renaming):
    """Has its ids in columns without a type, where 00 is 0."""

    def name(self, given: str) -> str:
        return str(int(given)) if re.fullmatch("[0-9]+", given) else given


@caught_by("DS-ID-01")
class UnquotesIds(_Renaming):
    """Undoes the %xx of an id that never was a part of a URL."""

    def name(self, given: str) -> str:
        return unquote(given)


@caught_by("DS-ID-01")
class TakesIdsForPaths(FileBackend):
    """Puts ids into paths as they are: `.` and `a/../b` lead elsewhere."""

    def _directory(self, key: CheckpointKey) -> str:
        return f"{self._open()}/{key.goal_id}/{key.episode_id:09d}/{key.checkpoint_id}"


@caught_by("DS-ID-02")
class JoinsIds(FileBackend):
    """Makes one name of the three parts of a key, and takes it apart again as if no id had a slash."""

    def _directory(self, key: CheckpointKey) -> str:
        return super()._directory(CheckpointKey(f"{key.goal_id}/{key.episode_id}/{key.checkpoint_id}", 0, "joined"))

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        for joined in super().keys():
            goal, episode, checkpoint = joined.goal_id.rsplit("/", 2)
            if goal_id in (None, goal):
                yield CheckpointKey(goal, int(episode), checkpoint)


@caught_by("DS-ID-03")
class SpreadsKeysByHash(FileBackend):
    """Spreads its keys over 16 directories by a hash that is another in every process, as Python's is."""

    _SALT = secrets.randbits(32)

    def _directory(self, key: CheckpointKey) -> str:
        return f"{self._open()}/{hash((self._SALT, key)) % 16}/{storage_path(key)}"

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        self._open()
        for number in range(16):
            yield from FileBackend(self.path / str(number)).keys(goal_id)


@caught_by("DS-EPISODE-01")
class IgnoresTheEpisode(FileBackend):
    """Keeps one history for all attempts at a goal."""

    def _directory(self, key: CheckpointKey) -> str:
        return super()._directory(CheckpointKey(key.goal_id, 0, key.checkpoint_id))


@caught_by("DS-SAVE-05")
class EpisodesOfSixteenBits(FileBackend):
    """Has its episode in a column of 16 bits: what is listed is another one than was saved."""

    def _directory(self, key: CheckpointKey) -> str:
        return super()._directory(CheckpointKey(key.goal_id, key.episode_id % 2**16, key.checkpoint_id))


@caught_by("DS-KEYS-01")
class ListsPrunedKeys(FileBackend):
    """Lists the directories of its keys, also those whose last record is gone."""

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        yield from super().keys(goal_id)
        for directory in self.path.glob("*/*/*"):
            key = CheckpointKey(unquote(directory.parts[-3]), int(directory.parts[-2]), unquote(directory.parts[-1]))
            if goal_id in (None, key.goal_id) and not any(directory.iterdir()):
                yield key


@caught_by("DS-KEYS-01")
class ListsAKeyForEachRecord(SqliteBackend):
    """Forgets DISTINCT: a key is listed as often as it has steps."""

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        for key in super().keys(goal_id):
            yield from itertools.repeat(key, len(self.steps(key)))


@caught_by("DS-KEYS-02")
class ListsASiblingsKeys(FileBackend):
    """Lists by a prefix that does not end where the goal does: PROJ-1 has the keys of PROJ-10."""

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        return (key for key in super().keys() if key.goal_id.startswith(goal_id or ""))


@caught_by("DS-KEYS-02")
class ListsWithLike(SqliteBackend):
    """Asks with LIKE, to which a is A and an underscore any character."""

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        like = re.escape("%" if goal_id is None else goal_id).replace("_", ".").replace("%", ".*")
        return (key for key in super().keys() if re.fullmatch(like, key.goal_id, re.IGNORECASE | re.DOTALL))


@caught_by("DS-KEYS-03")
class ListsAtOnce(MemoryBackend):
    """Gives a list where an iterator is promised."""

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        return list(super().keys(goal_id))  # type: ignore[return-value]


@caught_by("DS-KEYS-04")
class ListsByOffset(MemoryBackend):
    """Asks for page after page by how many keys came before: with those pruned meanwhile it misses others."""

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        for offset in itertools.count(0, 1000):
            page = sorted(super().keys(goal_id))[offset : offset + 1000]
            if not page:
                return
            yield from page


@caught_by("DS-CLOSE-04")
class EndsListingsOnClose(FileBackend):
    """Looks in the middle of a listing whether it is closed, and then takes that for the end."""

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        for key in super().keys(goal_id):
            if self._closed:
                return
            yield key
