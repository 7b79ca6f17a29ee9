"""What is particular to records as files; what every backend promises is in the conformance suite."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from durable_store.backend import open_backend
from durable_store.errors import InvalidURL, StoreUnavailable
from durable_store.key import CheckpointKey
from durable_store_backends.files import FileBackend

KEY = CheckpointKey("PROJ-1", 3, "orchestrator-0")
DIRECTORY = "%50%52%4f%4a-1/000000003/orchestrator-0"
RECORD = b"the bytes of a record"


def system(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


# Present is not enough: some containers forbid ptrace.
strace_works = shutil.which("strace") is not None and system("strace", "-o", os.devnull, "true").returncode == 0
needs_strace = pytest.mark.skipif(not strace_works, reason="strace is missing (apt-get install strace) or forbidden")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def backend(root: Path) -> Iterator[FileBackend]:
    backend = FileBackend(root)
    yield backend
    backend.close()


def files_below(root: Path) -> list[str]:
    """The relative paths of all that is no directory, hidden files too."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


class TestLayout:
    def test_a_record_is_the_file_goal_episode_checkpoint_step(self, backend: FileBackend, root: Path) -> None:
        backend.save(KEY, 42, RECORD)
        assert files_below(root) == [f"{DIRECTORY}/0000000000000042.ckpt"]
        assert (root / DIRECTORY / "0000000000000042.ckpt").read_bytes() == RECORD

    def test_the_largest_step_has_sixteen_digits(self, backend: FileBackend, root: Path) -> None:
        backend.save(KEY, 2**53 - 1, RECORD)
        assert files_below(root) == [f"{DIRECTORY}/9007199254740991.ckpt"]

    def test_ids_cannot_leave_the_directory(self, backend: FileBackend, root: Path) -> None:
        backend.save(CheckpointKey("../..", 0, "/etc/passwd"), 0, RECORD)
        assert files_below(root) == ["%2e.%2f.%2e/000000000/%2fetc%2fpasswd/0000000000000000.ckpt"]

    def test_only_the_owner_may_read_whatever_the_umask_and_however_deep_the_new_directories(
        self, tmp_path: Path
    ) -> None:
        before = os.umask(0)
        try:
            FileBackend(tmp_path / "new" / "store").save(KEY, 0, RECORD)
        finally:
            os.umask(before)
        modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()}
        assert modes == {0o700}
        record = tmp_path / "new" / "store" / DIRECTORY / "0000000000000000.ckpt"
        assert stat.S_IMODE(record.stat().st_mode) == 0o600

    def test_reading_creates_nothing(self, backend: FileBackend, root: Path) -> None:
        assert backend.latest(KEY) is None
        assert backend.load(KEY, 0) is None
        assert backend.steps(KEY) == []
        assert list(backend.keys()) == list(backend.keys("PROJ-1")) == []
        backend.prune(KEY, [0, 1])
        assert not root.exists()

    def test_what_is_not_spelled_like_ours_is_ignored(self, backend: FileBackend, root: Path) -> None:
        backend.save(KEY, 7, RECORD)
        checkpoint = root / DIRECTORY
        foreign = [
            *(checkpoint / name for name in ("8.ckpt", "0000000000000009.ckpt~", ".0000000000000010.ckpt", "notes")),
            *(
                checkpoint / name
                for name in ("00000000000000011.ckpt", "٠٠٠٠٠٠٠٠٠٠٠٠٠٠١٢.ckpt", "000000000000001a.ckpt")
            ),
            root / "README",
            root / "notes",
            root / "PROJ-1/000000003/orchestrator-0/0000000000000001.ckpt",
            root / "%50rOj/000000003/a/0000000000000001.ckpt",
            root / "goal/3/a/0000000000000001.ckpt",
            root / "goal/0000000003/a/0000000000000001.ckpt",
            root / "goal/000000003/a%2F/0000000000000001.ckpt",
            root / "goal/000000003/a%2f/1.ckpt",
            root / "goal/000000003/b",
            Path(os.fsdecode(os.fsencode(root) + b"/\xff")),
        ]
        for path in foreign:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"foreign")
        assert list(backend.keys()) == [KEY]
        assert backend.steps(KEY) == [7]
        assert backend.latest(KEY) == (7, RECORD)
        backend.prune(KEY, [7, 8, 9, 10, 11, 12])
        assert files_below(root) == sorted(str(path.relative_to(root)) for path in foreign)

    def test_a_key_without_records_is_no_key(self, backend: FileBackend, root: Path) -> None:
        backend.save(KEY, 0, RECORD)
        backend.prune(KEY, [0])
        assert (root / DIRECTORY).is_dir()
        assert list(backend.keys()) == []

    def test_keys_stream(self, backend: FileBackend) -> None:
        for episode in range(3):
            backend.save(CheckpointKey("goal", episode, "a"), 0, RECORD)
        keys = backend.keys()
        first = next(keys)
        for episode in range(3):
            backend.prune(CheckpointKey("goal", episode, "a"), [0])
        assert first.goal_id == "goal"
        assert list(keys) == []


class TestWhereItIs:
    def test_a_url_is_percent_decoded_and_a_plain_path_is_not(self, tmp_path: Path) -> None:
        for url, path in {
            f"file://{tmp_path}/a%20b%23%3f": tmp_path / "a b#?",
            f"{tmp_path}/a%20b": tmp_path / "a%20b",
            f"{tmp_path}/a b?c=d#e": tmp_path / "a b?c=d#e",
            f"{tmp_path}/ümlaut/../%": tmp_path / "%",
        }.items():
            backend = open_backend(url)
            assert isinstance(backend, FileBackend)
            assert backend.path == path
            backend.close()

    def test_a_plain_path_may_start_with_the_home_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        backend = open_backend("~/store")
        assert isinstance(backend, FileBackend)
        assert backend.path == tmp_path / "store"

    def test_a_path_that_is_no_unicode_is_the_same_path(self, tmp_path: Path) -> None:
        path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
        backend = open_backend(path)
        backend.save(KEY, 0, RECORD)
        assert os.listdir(os.fsencode(tmp_path)) == [b"\xff"]  # noqa: PTH208 - its names as bytes

    def test_chdir_does_not_move_the_store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(tmp_path)
        backends = [FileBackend("store"), open_backend("store")]
        monkeypatch.chdir(elsewhere)
        for step, backend in enumerate(backends):
            backend.save(KEY, step, RECORD)
            backend.close()
        assert FileBackend(tmp_path / "store").steps(KEY) == [1, 0]

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("file://", "file:///"),
            ("file://runs/store", "file:///runs/store"),
            ("file://localhost/tmp", "no host"),
            ("file:///tmp/a%00b", "NUL"),
            ("file:///tmp/store?sync=no", "no option 'sync'"),
            ("file:///tmp/store#1", "%23"),
        ],
    )
    def test_a_url_that_is_no_path_is_refused_with_what_to_write(self, url: str, says: str) -> None:
        with pytest.raises(InvalidURL, match=re.escape(says)):
            open_backend(url)

    def test_its_repr_says_where(self, backend: FileBackend, root: Path) -> None:
        assert repr(backend) == f"FileBackend('{root}')"

    def test_closed_is_unavailable_in_every_verb(self, backend: FileBackend) -> None:
        backend.save(KEY, 0, RECORD)
        backend.close()
        backend.close()
        verbs: list[Callable[[], object]] = [
            lambda: backend.save(KEY, 1, RECORD),
            lambda: backend.latest(KEY),
            lambda: backend.prune(KEY, [0]),
            lambda: backend.load(KEY, 0),
            lambda: backend.steps(KEY),
            lambda: list(backend.keys()),
        ]
        for verb in verbs:
            with pytest.raises(StoreUnavailable, match="closed"):
                verb()


class TestFileSystemsWithoutUnnamedFiles:
    def test_a_save_leaves_nothing_over(
        self, backend: FileBackend, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(os, "O_TMPFILE")
        assert backend.save(KEY, 0, RECORD) == RECORD
        assert backend.save(KEY, 0, b"of the loser") == RECORD
        assert files_below(root) == [f"{DIRECTORY}/0000000000000000.ckpt"]

    @needs_strace
    @pytest.mark.parametrize("error", ["EOPNOTSUPP", "EXDEV", "EPERM", "ENOENT"])
    def test_a_link_that_does_not_work_falls_back_to_a_hidden_name(self, error: str, root: Path) -> None:
        said, _ = traced("tried(backend.save, key, 0, b'0')", root, f"--inject=linkat:error={error}:when=1")
        assert said == ["b'0'"]
        assert FileBackend(root).latest(KEY) == (0, b"0")
        assert files_below(root) == [f"{DIRECTORY}/0000000000000000.ckpt"]

    @needs_strace
    def test_without_hard_links_a_save_is_refused_with_the_reason_and_leaves_nothing_over(self, root: Path) -> None:
        said, _ = traced("tried(backend.save, key, 0, b'0')", root, "--inject=linkat:error=EPERM")
        assert said[0].startswith("maybe_saved=False: cannot save")
        assert "no hard links" in said[0]
        assert files_below(root) == []


@needs_strace
class TestFlushes:
    def test_a_save_flushes_the_file_and_then_its_directory(self, root: Path) -> None:
        _, flushed = traced("[tried(backend.save, key, step, b'0') for step in range(3)]", root)
        for steady in flushed[1:]:
            file, directory = steady
            assert "deleted" in file  # it has no name yet
            assert directory == str(root / DIRECTORY)

    def test_the_first_save_in_a_directory_flushes_all_directories_above_it(self, root: Path) -> None:
        _, flushed = traced("tried(backend.save, key, 0, b'0')", root)
        on_this_disk = [path for path in (root / DIRECTORY).parents if path.stat().st_dev == root.stat().st_dev]
        assert flushed[0][:-2] == [str(path) for path in on_this_disk]

    def test_that_another_process_has_made_the_directories_does_not_mean_that_it_has_flushed_them(
        self, root: Path
    ) -> None:
        script = "tried(backend.save, key, os.getpid(), b'0')"
        (first,), (second,) = traced(script, root)[1], traced(script, root)[1]
        assert first[:-2] == second[:-2]

    def test_another_key_flushes_only_the_directories_above_it_that_are_new(self, root: Path) -> None:
        _, flushed = traced(
            """
tried(backend.save, key, 0, b'0')
tried(backend.save, CheckpointKey(key.goal_id, key.episode_id, "critic-1"), 0, b'0')
""",
            root,
        )
        episode = (root / DIRECTORY).parent
        assert flushed[1][0] == str(episode)
        assert flushed[1][2:] == [str(episode / "critic-1")]

    def test_a_directory_that_somebody_removed_is_made_and_flushed_again(self, root: Path) -> None:
        _, flushed = traced(
            """
tried(backend.save, key, 0, b'0')
shutil.rmtree(sys.argv[1])
tried(backend.save, key, 1, b'1')
""",
            root,
        )
        assert FileBackend(root).latest(KEY) == (1, b"1")
        assert flushed[1][:4] == [str(path) for path in (root / DIRECTORY).parents[:4]]

    def test_the_directories_above_are_those_on_the_disk_not_those_in_the_path(self, root: Path) -> None:
        real = root.parent / "real" / "deep"
        real.mkdir(parents=True)
        root.symlink_to(real)
        _, flushed = traced("tried(backend.save, key, 0, b'0')", root)
        assert flushed[0][:4] == [str(path) for path in (real / DIRECTORY).parents[:4]]

    def test_the_loser_of_a_race_flushes_the_directory_too(self, root: Path) -> None:
        script = "tried(backend.save, key, 0, b'0'); tried(backend.save, key, 0, b'1')"
        said, flushed = traced(script, root)
        assert said == ["b'0'", "b'0'"]
        assert flushed[1][-1] == str(root / DIRECTORY)

    def test_retention_flushes_nothing_and_a_delete_flushes_before_its_last_removal_and_after_it(
        self, root: Path
    ) -> None:
        _, flushed = traced(
            """
for step in range(5):
    tried(backend.save, key, step, b'0')
tried(backend.prune, key, [0, 1])
tried(backend.prune, key, [2, 3, 4])
""",
            root,
        )
        assert flushed[5:] == [[], [str(root / DIRECTORY)] * 2]

    def test_what_is_known_about_directories_is_bounded(
        self, backend: FileBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("durable_store_backends.files._MOST_FLUSHED", 10)
        for episode in range(20):
            backend.save(CheckpointKey("goal", episode, "a"), 0, RECORD)
        assert len(backend._flushed) < 30

    def test_no_handle_stays_open_between_two_calls(self, backend: FileBackend) -> None:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        backend.save(KEY, 0, RECORD)
        backend.save(KEY, 0, b"of the loser")
        backend.latest(KEY)
        next(backend.keys())
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@needs_strace
class TestFailingDisk:
    """Saves 0, then 1, which meets the failure, then 1 again."""

    SCRIPT = "tried(backend.save, key, 0, b'0'); tried(backend.save, key, 1, b'1'); tried(backend.save, key, 1, b'1')"

    @pytest.fixture
    def flushes_of_the_first_save(self, tmp_path: Path) -> int:
        return len(traced(self.SCRIPT, tmp_path / "other")[1][0])

    def test_a_file_that_was_not_flushed_is_not_saved(self, root: Path, flushes_of_the_first_save: int) -> None:
        said, _ = traced(self.SCRIPT, root, f"--inject=fsync:error=EIO:when={flushes_of_the_first_save + 1}")
        assert said[1].startswith(f"maybe_saved=False: cannot save {root / DIRECTORY}/0000000000000001.ckpt: Input/out")
        assert said[::2] == ["b'0'", "b'1'"]

    def test_a_directory_that_was_not_flushed_leaves_the_outcome_unknown(
        self, root: Path, flushes_of_the_first_save: int
    ) -> None:
        said, _ = traced(self.SCRIPT, root, f"--inject=fsync:error=EIO:when={flushes_of_the_first_save + 2}")
        assert said[1].startswith("maybe_saved=True: cannot flush the directory of")
        assert said[::2] == ["b'0'", "b'1'"]

    def test_while_the_directories_above_cannot_be_flushed_nothing_is_saved(self, root: Path) -> None:
        said, flushed = traced(self.SCRIPT, root, "--inject=fsync:error=EIO:when=3")
        assert said[0].startswith("maybe_saved=False: cannot save")
        assert said[1:] == ["b'1'", "b'1'"]
        assert FileBackend(root).steps(KEY) == [1]
        assert flushed[1][:3] == flushed[0], "the next save must begin with them again"

    @pytest.mark.parametrize(
        ("error", "maybe_saved", "says"),
        [
            ("EIO", True, "the disk failed"),
            ("ENOSPC", False, "the disk is full"),
            ("EDQUOT", False, "quota"),
            ("EROFS", False, "read-only"),
        ],
    )
    def test_a_link_that_fails_says_whether_the_record_may_be_there(
        self, root: Path, error: str, says: str, *, maybe_saved: bool
    ) -> None:
        said, _ = traced(self.SCRIPT, root, f"--inject=linkat:error={error}:when=2")
        assert said[1].startswith(f"maybe_saved={maybe_saved}: ")
        assert says in said[1]
        assert said[::2] == ["b'0'", "b'1'"]
        assert len(files_below(root)) == 2


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with about 1 MB of room."""
    point, image = tmp_path / "disk", tmp_path / "image"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "durable-store-test", str(point)]
    if request.param == "ext4":
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("mkfs.ext4 is missing")
        image.write_bytes(bytes(2 << 20))
        system("mkfs.ext4", "-q", "-m", "0", str(image)).check_returncode()
        command = ["mount", "-o", "loop", str(image), str(point)]
    mounted = system(*command)
    if mounted.returncode:
        pytest.skip(f"this machine allows no mounts here: {mounted.stderr.strip()}")
    try:
        yield point
    finally:
        system("umount", str(point)).check_returncode()


@needs_root
class TestSmallDisk:
    @pytest.mark.parametrize("named", [False, True])
    def test_a_full_disk_refuses_a_save_keeps_what_is_there_and_takes_more_once_there_is_room(
        self, small_disk: Path, monkeypatch: pytest.MonkeyPatch, *, named: bool
    ) -> None:
        if named:
            monkeypatch.delattr(os, "O_TMPFILE")
        backend = FileBackend(small_disk / "store")
        records = [bytes([step]) * 100_000 for step in range(30)]
        saved = 0

        def fill() -> None:
            nonlocal saved
            for saved, record in enumerate(records):
                backend.save(KEY, saved, record)

        with pytest.raises(StoreUnavailable, match=r"\.ckpt: No space left on device \(the disk is full") as full:
            fill()
        assert 3 < saved < 20
        assert not full.value.maybe_saved
        assert isinstance(full.value.__cause__, OSError)
        assert backend.latest(KEY) == (saved - 1, records[saved - 1])
        assert [backend.load(KEY, step) for step in range(saved)] == records[:saved]
        assert len(files_below(backend.path)) == saved
        backend.prune(KEY, [0, 1])
        assert backend.save(KEY, saved, records[saved]) == records[saved]
        backend.close()

    def test_a_file_system_that_became_read_only_can_be_read(self, small_disk: Path) -> None:
        backend = FileBackend(small_disk / "store")
        backend.save(KEY, 0, RECORD)
        system("mount", "-o", "remount,ro", str(small_disk)).check_returncode()
        for refused in (lambda: backend.save(KEY, 1, RECORD), lambda: backend.prune(KEY, [0])):
            with pytest.raises(StoreUnavailable, match=r"0{15}\d\.ckpt: Read-only file system"):
                refused()
        assert backend.latest(KEY) == (0, RECORD)
        system("mount", "-o", "remount,rw", str(small_disk)).check_returncode()
        assert backend.save(KEY, 1, RECORD) == RECORD

    @needs_strace
    def test_flushing_ends_at_the_root_of_the_file_system(self, small_disk: Path) -> None:
        _, flushed = traced("tried(backend.save, key, 0, b'0')", small_disk / "store", log=small_disk.parent / "log")
        assert flushed[0][-3] == str(small_disk)


@needs_root
class TestPermissions:
    """What a user who is not root meets: in a child process, since root may everything."""

    @pytest.fixture
    def public(self) -> Iterator[Path]:
        # Not below tmp_path, which others may not enter.
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            directory.chmod(0o711)
            mine = directory / "mine"
            mine.mkdir()
            os.chown(mine, 65534, 65534)
            yield mine

    @staticmethod
    def as_nobody(script: str, root: Path) -> list[str]:
        # Only after the imports: the interpreter itself may lie where others may not read.
        become = "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        return said_by(sys.executable, "-B", "-c", PRELUDE + become + script, str(root))

    def test_directories_above_that_may_not_be_opened_are_left_to_whoever_made_them(self, public: Path) -> None:
        assert self.as_nobody("tried(backend.save, key, 0, b'0')", public / "store") == ["b'0'"]

    def test_a_record_that_may_not_be_read_is_not_taken_for_absent(self, public: Path) -> None:
        root = public / "store"
        self.as_nobody("tried(backend.save, key, 0, b'0'); tried(backend.save, key, 1, b'1')", root)
        record = root / DIRECTORY / "0000000000000001.ckpt"
        record.chmod(0)
        said = self.as_nobody(
            """
tried(backend.latest, key)
tried(backend.load, key, 1)
tried(backend.save, key, 1, b'1')
tried(backend.load, key, 0)
""",
            root,
        )
        for line, verb in zip(said[:3], ["read", "read", "save"], strict=True):
            assert line.startswith(f"maybe_saved=False: cannot {verb} {record}: Permission denied (")
        assert said[3] == "b'0'"

    def test_a_directory_that_may_not_be_written_refuses_saves_and_can_be_read(self, public: Path) -> None:
        root = public / "store"
        self.as_nobody("tried(backend.save, key, 0, b'0')", root)
        (root / DIRECTORY).chmod(0o500)
        said = self.as_nobody(
            "tried(backend.save, key, 1, b'1'); tried(backend.prune, key, [0]); tried(backend.latest, key)", root
        )
        path = root / DIRECTORY
        assert said[0].startswith(f"maybe_saved=False: cannot save {path}/0000000000000001.ckpt: Permission denied (")
        assert said[1].startswith(f"maybe_saved=False: cannot remove {path}/0000000000000000.ckpt: Permission denied (")
        assert said[2] == "(0, b'0')"

    def test_a_directory_that_may_not_be_listed_is_not_taken_for_empty(self, public: Path) -> None:
        root = public / "store"
        self.as_nobody("tried(backend.save, key, 0, b'0')", root)
        (root / DIRECTORY).chmod(0)
        said = self.as_nobody(
            "tried(backend.latest, key); tried(backend.steps, key); tried(lambda: list(backend.keys()))", root
        )
        assert all("Permission denied" in line for line in said)


class TestWhatIsInTheWay:
    def test_a_directory_in_the_place_of_a_record_is_unavailable_and_no_absent_record(
        self, backend: FileBackend, root: Path
    ) -> None:
        backend.save(KEY, 0, RECORD)
        path = root / DIRECTORY / "0000000000000001.ckpt"
        path.mkdir()
        verbs: list[Callable[[], object]] = [
            lambda: backend.latest(KEY),
            lambda: backend.load(KEY, 1),
            lambda: backend.save(KEY, 1, RECORD),
            lambda: backend.prune(KEY, [1]),
        ]
        for verb in verbs:
            with pytest.raises(StoreUnavailable, match=f"{re.escape(str(path))}: Is a directory") as refused:
                verb()
            assert not refused.value.maybe_saved
        assert backend.load(KEY, 0) == RECORD

    @pytest.mark.parametrize(
        ("kind", "writers", "says"),
        [
            (stat.S_IFIFO, 0, "Not a file (a pipe or a device is in the place of a record: move it away)"),
            (stat.S_IFIFO, 1, "Not a file (a pipe or a device is in the place of a record: move it away)"),
            (stat.S_IFSOCK, 0, "No such device or address (a socket is in the place of a record: move it away)"),
        ],
        ids=["pipe", "pipe with a writer", "socket"],
    )
    def test_a_pipe_in_the_place_of_a_record_is_unavailable_and_makes_nobody_wait(
        self, backend: FileBackend, root: Path, kind: int, writers: int, says: str
    ) -> None:
        backend.save(KEY, 0, RECORD)
        path = root / DIRECTORY / "0000000000000001.ckpt"
        os.mknod(path, 0o600 | kind)
        script = """
tried(backend.latest, key)
tried(backend.load, key, 1)
tried(lambda: backend.load(key, 1, first=10))
tried(backend.save, key, 1, b'1')
tried(backend.load, key, 0)
"""
        held = [os.open(path, os.O_RDWR) for _ in range(writers)]
        try:
            said = said_by(sys.executable, "-c", PRELUDE + script, str(root))
        finally:
            for writer in held:
                os.close(writer)
        assert said == [
            *(f"maybe_saved=False: cannot {verb} {path}: {says}" for verb in ("read", "read", "read", "save")),
            repr(RECORD),
        ]

    def test_a_file_in_the_place_of_the_store_is_unavailable_in_every_verb(
        self, backend: FileBackend, root: Path
    ) -> None:
        root.write_bytes(b"a file")
        verbs: list[Callable[[], object]] = [
            lambda: backend.save(KEY, 1, RECORD),
            lambda: backend.latest(KEY),
            lambda: backend.prune(KEY, [0]),
            lambda: backend.load(KEY, 0),
            lambda: backend.steps(KEY),
            lambda: list(backend.keys()),
        ]
        for verb in verbs:
            with pytest.raises(StoreUnavailable, match="Not a directory") as refused:
                verb()
            assert isinstance(refused.value.__cause__, NotADirectoryError)
        assert root.read_bytes() == b"a file"

    def test_a_record_that_leads_nowhere_is_unavailable(self, backend: FileBackend, root: Path) -> None:
        backend.save(KEY, 0, RECORD)
        (root / DIRECTORY / "0000000000000001.ckpt").symlink_to("nowhere")
        for verb in (lambda: backend.save(KEY, 1, RECORD), lambda: backend.latest(KEY)):
            with pytest.raises(StoreUnavailable, match="nothing can be read behind it"):
                verb()

    def test_a_path_through_a_link_that_leads_nowhere_is_unavailable(self, root: Path) -> None:
        root.symlink_to("nowhere")
        for path in (root, root / "store"):
            with pytest.raises(StoreUnavailable, match="No such file or directory"):
                FileBackend(path).save(KEY, 0, RECORD)

    def test_symbolic_links_in_a_circle_are_unavailable(self, backend: FileBackend, root: Path) -> None:
        root.symlink_to(root)
        for verb in (lambda: backend.save(KEY, 0, RECORD), lambda: backend.latest(KEY)):
            with pytest.raises(StoreUnavailable, match="circle"):
                verb()

    def test_a_path_that_is_too_long_is_unavailable(self, root: Path) -> None:
        backend = FileBackend(root / ("x" * 300))
        for verb in (lambda: backend.save(KEY, 0, RECORD), lambda: backend.latest(KEY)):
            with pytest.raises(StoreUnavailable, match="255 bytes"):
                verb()

    def test_ids_of_the_greatest_length_are_saved(self, backend: FileBackend) -> None:
        key = CheckpointKey("g" * 200, 999_999_999, "c" * 200)
        assert backend.save(key, 2**53 - 1, RECORD) == RECORD
        assert list(backend.keys()) == [key]

    def test_too_many_open_files_are_unavailable_with_what_helps(self, root: Path) -> None:
        FileBackend(root).save(KEY, 0, RECORD)
        script = """
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(50)]
resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1, 4096))
tried(backend.save, key, 1, b'1')
tried(backend.latest, key)
"""
        said = said_by(sys.executable, "-c", PRELUDE + script, str(root))
        assert len(said) == 2
        assert all("ulimit -n" in line for line in said)

    def test_a_record_that_is_cut_short_by_a_limit_leaves_nothing_over(self, root: Path) -> None:
        script = """
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
tried(backend.save, key, 0, b'0' * 15_000)
tried(backend.save, key, 0, b'0')
"""
        said = said_by(sys.executable, "-c", PRELUDE + script, str(root))
        assert said[0].startswith("maybe_saved=False")
        assert "File too large" in said[0]
        assert said[1] == "b'0'"
        assert len(files_below(root)) == 1


PRELUDE = """
import os, resource, shutil, sys
from durable_store.errors import StoreUnavailable
from durable_store.key import CheckpointKey
from durable_store_backends.files import FileBackend
backend = FileBackend(sys.argv[1])
key = CheckpointKey("PROJ-1", 3, "orchestrator-0")
def tried(verb, *arguments):
    try:
        said = repr(verb(*arguments))
    except StoreUnavailable as err:
        said = f"maybe_saved={err.maybe_saved}: {err}"
    os.write(1, f"{said}\\n".encode())
"""


def said_by(*command: str) -> list[str]:
    """What a child process wrote, line by line."""
    child = system(*command)
    assert child.returncode == 0, child.stderr
    return child.stdout.splitlines()


def traced(script: str, root: Path, *options: str, log: Path | None = None) -> tuple[list[str], list[list[str]]]:
    """What `tried` said in a child process, and what was flushed for each of that, by strace."""
    log = log or root.with_name(f"{root.name}.strace")
    strace = ["strace", "-f", "-y", "-qq", "-o", str(log), "-e", "trace=fsync,write,?link,linkat", *options]
    said = said_by(*strace, sys.executable, "-B", "-c", PRELUDE + script, str(root))
    flushed: list[list[str]] = [[]]
    for line in log.read_text().splitlines():
        if match := re.search(r" fsync\(\d+<(.*)>", line):
            flushed[-1].append(match[1] + "deleted" * ("(deleted)" in line))
        elif " write(1<" in line:
            flushed.append([])
    return said, flushed[:-1]
