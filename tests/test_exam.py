"""The exam on backends that hang, that are slow, and whose requests outlive their client: it ends, and it is fair."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from durable_store_conformance.exam import CLAUSES
from durable_store_conformance.limits import DidNotEnd, ends_within
from durable_store_conformance.report import CaseResult, report_of
from durable_store_conformance.work import in_threads

FEW_SECONDS = "limits.CLAUSE = limits.ANSWER = limits.TRY_OUT = limits.CLEAN_UP = limits.AGAIN = 2"

BACKENDS = '''
import os, select, sys, threading, time
from urllib.parse import unquote
from durable_store_backends.files import FileBackend
from durable_store_backends.memory import MemoryBackend

def hang():
    while True:
        try:
            threading.Event().wait()
        except Exception:  # as a client does that never gives up
            pass

def off_main():
    return threading.current_thread() is not threading.main_thread()

class Mine:
    @classmethod
    def from_url(cls, url):
        memory = issubclass(KINDS[url.netloc], MemoryBackend)
        return KINDS[url.netloc](*([] if memory else [unquote(url.path)]))

class Memory(MemoryBackend):
    def __init__(self):
        super().__init__("mine")

class SavesHangInThreads(FileBackend):
    def save(self, key, step, record):
        return hang() if off_main() else super().save(key, step, record)

class ReadsHangInThreads(FileBackend):
    def latest(self, key):
        return hang() if off_main() else super().latest(key)

class SavesHang(FileBackend):
    def save(self, key, step, record):
        hang()

class SavesHangInOthers(FileBackend):
    def save(self, key, step, record):
        return hang() if "durable_store_conformance.child" in sys.orig_argv else super().save(key, step, record)

class ForksHang(FileBackend):
    def __init__(self, path):
        super().__init__(path)
        self._pid = os.getpid()

    def save(self, key, step, record):
        return hang() if os.getpid() != self._pid else super().save(key, step, record)

class PrunesHang(Memory):
    def prune(self, key, steps):
        hang()

class Slow(FileBackend):
    def save(self, key, step, record):
        time.sleep(0.03)
        return super().save(key, step, record)

    def load(self, key, step, *, first=None):
        time.sleep(0.03)
        return super().load(key, step, first=first)

class Remote(FileBackend):
    """Another process does what it is asked for, a while later, whether or not the one that asked still lives."""

    def save(self, key, step, record):
        self._ask(lambda: super(Remote, self).save(key, step, record), 0.008)
        return self.load(key, step)

    def prune(self, key, steps):
        def prune():
            for step in steps:
                super(Remote, self).prune(key, [step])
                time.sleep(0.004)
        self._ask(prune, 0)

    def _ask(self, work, pause):
        read, write = os.pipe()
        tracing = sys.gettrace()
        sys.settrace(None)  # the line at which the client is killed must not be one of the service
        service = os.fork()
        if service == 0:
            try:
                for number in {*range(64)} - {write}:
                    try:
                        os.close(number)
                    except OSError:
                        pass
                time.sleep(pause)
                work()
                os.write(write, b"done")
            finally:
                os._exit(0)
        sys.settrace(tracing)
        os.close(write)
        while not select.select([read], [], [], 0.0002)[0]:  # most lines are those of waiting: there it is killed
            pass
        os.close(read)
        os.waitpid(service, 0)

KINDS = {
    "saves-hang-in-threads": SavesHangInThreads,
    "reads-hang-in-threads": ReadsHangInThreads,
    "saves-hang": SavesHang,
    "saves-hang-in-others": SavesHangInOthers,
    "forks-hang": ForksHang,
    "prunes-hang": PrunesHang,
    "slow": Slow,
    "remote": Remote,
}
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory; every process that is started finds the backends of `mine://KIND`."""
    packages = tmp_path / "packages"
    metadata = packages / "mine-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("[durable_store.backends]\nmine = mine:Mine\n")
    (packages / "mine.py").write_text(BACKENDS)
    monkeypatch.setenv("PYTHONPATH", str(packages))
    directory = tmp_path / "exam"
    directory.mkdir()
    return directory


def gone(group: int) -> bool:
    """Whether no process of the group is left, a second after the command has ended at the latest."""
    until = time.monotonic() + 1
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


class Ran:
    """The command on a backend of a kind, with limits of its own: how it ended, and that it left no process behind."""

    def __init__(self, directory: Path, kind: str, *only: str, limited: str = FEW_SECONDS) -> None:
        args = ["conformance", f"mine://{kind}{directory}/store", *(part for each in only for part in ("--only", each))]
        code = (
            "import sys; from durable_store_conformance import limits; from durable_store.cli import main;"
            f"{limited}; sys.argv[1:] = {args!r}; sys.exit(main())"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                self.out, self.err = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        self.status = process.returncode
        assert kind == "remote" or gone(process.pid)  # what has become of a service is nobody's business

    def result(self, clause: str) -> str:
        """What the table says of a clause."""
        row = next(line for line in self.out.splitlines() if line.startswith(f"  {clause} "))
        return next(result for result in ("not evaluable", "failed", "held") if f" {result} " in row)


def test_a_save_that_hangs_in_a_thread_ends_its_clause_and_is_no_broken_promise(installed: Path) -> None:
    ran = Ran(installed, "saves-hang-in-threads", "DS-SAVE-01", "DS-THREAD-01", "DS-RACE-01")
    assert ran.status == 3, ran.err
    assert ran.result("DS-SAVE-01") == "held"
    assert [ran.result(clause) for clause in ("DS-THREAD-01", "DS-RACE-01")] == ["not evaluable"] * 2
    assert "NotEvaluable: it did not end within 2 s\n" in ran.out
    assert "at sharing.py:" in ran.out, "where it hung"
    assert not list(installed.iterdir())


@pytest.mark.prove  # ten seconds
def test_a_thread_that_never_ends_does_not_keep_the_command_from_ending(installed: Path) -> None:
    ran = Ran(installed, "reads-hang-in-threads", "DS-PRUNE-06", "DS-READER-01")
    assert ran.status == 3, ran.err
    assert ran.result("DS-READER-01") == "not evaluable"


def test_a_prune_that_never_returns_ends_its_clause_and_what_is_left_is_told(installed: Path) -> None:
    ran = Ran(installed, "prunes-hang", "DS-PRUNE-01", "DS-SAVE-01")
    assert ran.status == 3
    assert (ran.result("DS-SAVE-01"), ran.result("DS-PRUNE-01")) == ("held", "not evaluable")
    assert "3 stores could not be removed; the first: mine://prunes-hang/" in ran.err
    assert "its removal: it did not end within 2 s\n" in ran.err


def test_what_could_not_be_removed_is_exit_status_3_though_all_held(installed: Path) -> None:
    ran = Ran(installed, "prunes-hang", "DS-SAVE-01")
    assert (ran.status, ran.result("DS-SAVE-01")) == (3, "held")


def test_a_store_that_does_not_answer_is_told_before_the_exam_begins(installed: Path) -> None:
    ran = Ran(installed, "saves-hang", "DS-SAVE-01")
    assert (ran.status, ran.out) == (3, "")
    assert ran.err.startswith("durable-store: the exam cannot begin: mine://saves-hang/")
    assert ran.err.endswith("it did not end within 2 s\n")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(("kind", "clause"), [("saves-hang-in-others", "DS-FRESH-03"), ("forks-hang", "DS-FORK-01")])
def test_another_process_that_hangs_ends_its_clause_and_is_no_broken_promise(
    installed: Path, kind: str, clause: str
) -> None:
    ran = Ran(installed, kind, clause)
    assert (ran.status, ran.result(clause)) == (3, "not evaluable"), ran.out


SOONER = "limits.CLAUSE = 0.7; limits.FAST = "


@pytest.mark.parametrize(("fast", "result"), [("0.0005", "held"), ("1", "not evaluable")])
def test_the_limits_are_longer_for_a_slow_store(installed: Path, fast: str, result: str) -> None:
    ran = Ran(installed, "slow", "DS-READER-01", limited=SOONER + fast)
    assert ran.result("DS-READER-01") == result
    assert ran.status == (0 if result == "held" else 3)


@pytest.mark.parametrize(("fast", "told"), [("0.0005", "2 held"), ("1", "1 held, 1 not evaluable")])
def test_so_they_are_in_pytest_after_its_first_case(installed: Path, fast: str, told: str) -> None:
    (installed / "conftest.py").write_text(f"from durable_store_conformance import limits\n{SOONER}{fast}\n")
    (installed / "test_mine.py").write_text(
        "import pytest\nfrom durable_store_conformance import StoreConformance\n"
        "class TestMine(StoreConformance):\n"
        "    @pytest.fixture\n    def url(self, tmp_path):\n        return f'mine://slow{tmp_path}/store'\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-p", "durable_store_conformance.plugin", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*command, "-k", "DS-SAVE-01 or DS-READER-01"],
        cwd=installed,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f": {told}, " in ran.stdout, ran.stdout
    assert ("NotEvaluable: it did not end within 0.7 s" in ran.stdout) == (fast == "1")


@pytest.mark.prove  # ten seconds
def test_a_request_that_lands_after_its_client_was_killed_is_no_broken_promise(installed: Path) -> None:
    ran = Ran(installed, "remote", "DS-KILL-04", "DS-KILL-06", limited="pass")
    assert ran.status == 0, ran.out


def test_base_needs_no_fork() -> None:
    assert not [clause.id for clause in CLAUSES if clause.base and "a fork" in clause.needs]


def test_a_backend_that_refuses_forked_children_still_has_the_grade_base() -> None:
    results = (
        CaseResult(clause.id, case, "failed" if "a fork" in clause.needs else "held")
        for clause in CLAUSES
        for case in clause.cases
    )
    assert report_of(CLAUSES, results).grade == "base"


@pytest.fixture
def rung() -> Iterator[list[int]]:
    """When a timer of somebody else's ends, this is longer."""
    rings: list[int] = []

    def ring(number: int, _: FrameType | None) -> None:
        rings.append(number)

    before = signal.signal(signal.SIGALRM, ring)
    yield rings
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert signal.signal(signal.SIGALRM, before) is ring, "somebody else's handler is back"


def test_a_timer_of_somebody_elses_goes_on_with_the_time_it_had_left(rung: list[int]) -> None:
    signal.setitimer(signal.ITIMER_REAL, 30, 5)
    with pytest.raises(DidNotEnd), ends_within(0.2):
        time.sleep(10)
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    assert 0 < left < 29.9
    assert (interval, rung) == (5, [])


def test_a_timer_of_somebody_elses_that_is_due_before_stays_in_charge(rung: list[int]) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with ends_within(30):
        signal.pause()
    assert rung == [signal.SIGALRM]


def test_what_swallows_the_interruption_did_not_end_in_time_either() -> None:
    def swallows() -> None:
        try:
            signal.pause()
        except BaseException:  # noqa: BLE001 - the worst there is
            return

    with pytest.raises(DidNotEnd, match=r"within 0\.1 s"), ends_within(0.1):
        swallows()


def test_what_a_thread_raises_is_raised_and_the_first_by_number() -> None:
    def work(number: int) -> int:
        if number:
            raise ValueError(number)
        return number

    with pytest.raises(ValueError, match="1"):
        in_threads(3, work)
    assert in_threads(3, lambda number: number * 2) == [0, 2, 4]
