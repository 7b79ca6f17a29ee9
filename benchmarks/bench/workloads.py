"""What is measured: who takes part in which workload, how much of it there is, and what becomes of each round."""

import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from benchmarks.bench.measuring import flushes_between_marks
from benchmarks.bench.place import run_child
from tests.fault_proxy import FaultProxy
from tests.servers import Server, moto, seaweedfs

LOCAL = ("ours-sqlite", "ours-files", "langgraph", "langgraph-pruning", "burr", "json", "floor-sqlite", "floor-append")
KEEPING = ("ours-sqlite", "ours-files", "langgraph", "burr", "floor-sqlite", "floor-append")
SWARMING = ("ours-sqlite", "ours-files", "langgraph", "burr", "json", "floor-grouped", "floor-batched")
SERVERS = ("moto", "seaweedfs")

Results = dict[str, Any]


class Case(NamedTuple):
    """One that takes its turn in each round.

    Attributes:
        name: of its figures.
        contestant: who.
        server: where, if it is S3.
        sizes: what is different for it.
    """

    name: str
    contestant: str
    server: str = ""
    sizes: Mapping[str, int] = {}


@dataclass(frozen=True)
class Workload:
    """A kind of work, done by each case in each round, in a process and a directory of their own.

    Attributes:
        name: of its figures.
        group: what `--only` names.
        role: what the child does.
        about: what that is, for the document.
        cases: who takes turns.
        sizes: how much.
        trial: how much of it in a trial.
        reads: what a fresh process does with what is there afterwards.
        counted: sizes of the run in which flushes or requests are counted, if there is one.
    """

    name: str
    group: str
    role: str
    about: str
    cases: tuple[Case, ...]
    sizes: Mapping[str, Any]
    trial: Mapping[str, Any]
    reads: tuple[str, ...] = ()
    counted: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _cases(names: tuple[str, ...]) -> tuple[Case, ...]:
    return tuple(Case(name, name) for name in names)


def _on_servers(*names: str) -> tuple[Case, ...]:
    return tuple(Case(f"{name}, {server}", name, server) for server in SERVERS for name in names)


def _ranging(what: str, most: Mapping[str, int]) -> tuple[Case, ...]:
    """The same contestants at 1 or 10, 100 … of something."""
    first = 10 if what == "keys" else 1
    return tuple(
        Case(f"{name}, {many} {what}", name, "moto" if name == "ours-s3" else "", {what: many})
        for name, upto in most.items()
        for many in (first * 10**power for power in range(8))
        if many <= upto
    )


_GROWTH = (
    "200 turns, each two messages of 1.5 KB of text from the standard library's sources and a `budget` that changes"
)
WORKLOADS = (
    Workload(
        "Grow",
        "Grow",
        "grow",
        f"{_GROWTH}, behind the messages; keep 5.",
        _cases((*LOCAL[:4], "langgraph-writes", *LOCAL[4:])),
        {"turns": 200},
        {"turns": 20},
        ("latest",),
        {"turns": 60, "mark": 10},
    ),
    Workload(
        "GrowBudgetFirst",
        "GrowBudgetFirst",
        "grow",
        f"{_GROWTH}, before the messages; keep 5.",
        _cases(LOCAL),
        {"turns": 200, "budget_first": True},
        {"turns": 20},
        ("latest",),
        {"turns": 60, "mark": 10},
    ),
    Workload(
        "History",
        "History",
        "grow",
        "As Grow; every step is kept, and each is read afterwards by a process that was just started.",
        _cases(KEEPING),
        {"turns": 200, "keep": None},
        {"turns": 20},
        ("latest", "any_step"),
        {"turns": 60, "mark": 10},
    ),
    Workload(
        "Small",
        "Small",
        "small",
        "1000 commits of a state of 4 KB under one key; keep 5.",
        _cases(LOCAL),
        {"commits": 1000},
        {"commits": 60},
        ("latest",),
        {"commits": 220, "mark": 20},
    ),
    Workload(
        "Swarm",
        "Swarm",
        "swarm",
        "64 threads with 50 commits of 4 KB each, every one under a key of its own; keep 5.",
        _cases(SWARMING),
        {"threads": 64, "commits": 50},
        {"threads": 16, "commits": 5},
        ("latest",),
        {"commits": 10},
    ),
    Workload(
        "ReadKeys",
        "Read",
        "probe",
        "`latest` of 200 keys chosen by chance, in a process that was just started, in stores of more and more keys.",
        _ranging("keys", {"ours-sqlite": 1_000_000, "ours-files": 10_000, "ours-s3": 10_000}),
        {"steps": 1, "asked": 200},
        {"asked": 20},
    ),
    Workload(
        "ReadSteps",
        "Read",
        "probe",
        "`latest` of one key, 200 times, in a process that was just started, with more and more steps under the key.",
        _ranging("steps", {"ours-sqlite": 10_000, "ours-files": 10_000, "ours-s3": 10_000}),
        {"keys": 1, "asked": 200},
        {"asked": 20},
    ),
    Workload(
        "Long",
        "Long",
        "long",
        "5000 turns as in Grow, to a state of 15 MB; keep 5. In the last 100 the state is also encoded by itself.",
        _cases(("ours-sqlite",)),
        {"turns": 5000, "last": 100},
        {"turns": 200, "last": 20},
        ("latest",),
    ),
    Workload(
        "S3Grow",
        "S3",
        "grow",
        "As Grow, on servers of S3 on the loopback; against a PUT of the whole state for each turn.",
        _on_servers("ours-s3", "whole-s3"),
        {"turns": 200},
        {"turns": 10},
        (),
        {},
    ),
    Workload(
        "S3Swarm",
        "S3",
        "swarm",
        "As Swarm, on servers of S3 on the loopback; against a PUT of the whole state for each commit.",
        _on_servers("ours-s3", "whole-s3"),
        {"threads": 64, "commits": 50},
        {"threads": 8, "commits": 3},
        (),
        {},
    ),
)
GROUPS = tuple(dict.fromkeys(workload.group for workload in WORKLOADS))

TRIAL_MOST = 1000
"""Keys or steps in a trial."""


class Bench:
    """Does workloads, round by round, below one directory.

    The servers of S3 are started when they are needed, and end with it.
    """

    def __init__(self, python: Path, directory: Path, *, trial: bool = False) -> None:
        self._python = python
        self._directory = directory
        self._trial = trial
        self._servers: dict[str, Server] = {}
        self._ends = ExitStack()
        self._number = 0

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def measure(self, workload: Workload, rounds: int) -> Results:
        """The figures of all rounds by case, and what was counted apart from them."""
        cases = [
            case for case in workload.cases if not self._trial or max(case.sizes.values(), default=0) <= TRIAL_MOST
        ]
        seen: dict[str, list[Any]] = {case.name: [] for case in cases}
        if workload.role == "probe":
            self._probe(workload, cases, rounds, seen)
            return {"rounds": seen, "counted": {}}
        for number in range(rounds):
            for case in cases:
                said = self._once(workload, case)
                seen[case.name].append(said)
                _tell(workload, case, number, said)
        return {"rounds": seen, "counted": {case.name: self._count(workload, case) for case in cases}}

    def _spec(self, workload: Workload, case: Case, place: str, **more: Any) -> dict[str, Any]:
        sizes = {**workload.sizes, **(workload.trial if self._trial else {}), **case.sizes, **more}
        return {"role": workload.role, "contestant": case.contestant, "place": place, **sizes}

    def _once(self, workload: Workload, case: Case) -> dict[str, Any]:
        """One round of one case: the work, and what fresh processes then read."""
        with self._place(case) as place:
            said = run_child(self._python, self._spec(workload, case, place))
            for reads in workload.reads:
                if not case.contestant.startswith("floor") and (reads != "any_step" or case.contestant != "json"):
                    read = run_child(self._python, {"role": reads, "contestant": case.contestant, "place": place})
                    assert read.pop("digest", said["digest"]) == said["digest"], f"{case.name} gave another state"
                    said |= read
        return said

    def _count(self, workload: Workload, case: Case) -> dict[str, Any]:
        """Flushes by strace, requests by a proxy: in a run of their own, which both slow down."""
        if case.server:
            return self._count_requests(workload, case)
        if not workload.counted or shutil.which("strace") is None:
            return {}
        with self._place(case) as place, tempfile.NamedTemporaryFile("r") as trace:
            spec = self._spec(workload, case, place, **workload.counted)
            strace = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,sync_file_range,getppid", "-o", trace.name]
            try:
                said = run_child(self._python, spec, strace)
            except subprocess.CalledProcessError:  # a container may forbid it
                return {}
            flushes = flushes_between_marks(trace.read())
        commits = said["commits"] - spec.get("mark", 0)
        return {} if flushes is None else {"flushes": flushes, "flushes_per_commit": flushes / commits}

    def _count_requests(self, workload: Workload, case: Case) -> dict[str, Any]:
        with FaultProxy(self._server(case.server).endpoint) as proxy:
            said = run_child(self._python, self._spec(workload, case, self._url(proxy)))
            sent = sum(_size(request.method, request.path, request.headers) for request in proxy.requests)
            return {
                "requests": dict(proxy.count()),
                "requests_per_commit": proxy.count().total() / said["commits"],
                "sent": sent,
            }

    def _probe(self, workload: Workload, cases: list[Case], rounds: int, seen: dict[str, list[Any]]) -> None:
        """Fills each store once, and then asks all of them in turns."""
        with ExitStack() as filled:
            places = {case.name: filled.enter_context(self._place(case)) for case in cases}
            for case in cases:
                run_child(self._python, self._spec(workload, case, places[case.name]) | {"role": "fill"})
            for number in range(rounds):
                for case in cases:
                    said = self._asked(workload, case, places[case.name], number)
                    seen[case.name].append(said)
                    _tell(workload, case, number, said)

    def _asked(self, workload: Workload, case: Case, place: str, number: int) -> dict[str, Any]:
        if not case.server:
            # Another process reads the same just before. Of 200 reads in a store of 10 keys hardly one is the first of
            # its key, in one of a million all are: what that costs is a figure of its own.
            spec = self._spec(workload, case, place, seed=number)
            unread, read = run_child(self._python, spec), run_child(self._python, spec)
            return read | {"unread_us": unread["latest_us"]}
        with FaultProxy(self._server(case.server).endpoint) as proxy:
            place = proxy.url(urlsplit(place).path.strip("/"))
            said = run_child(self._python, self._spec(workload, case, place, seed=number))
            return said | {"requests": proxy.count().total() / said["asked"]}

    @contextmanager
    def _place(self, case: Case) -> Generator[str]:
        """An empty directory, or the URL of an empty store."""
        if case.server:
            yield self._url(self._server(case.server))
            return
        with tempfile.TemporaryDirectory(dir=self._directory) as place:
            yield place

    def _url(self, server: "Server | FaultProxy") -> str:
        self._number += 1
        return server.url(f"bench-{self._number}")

    def _server(self, name: str) -> Server:
        if name not in self._servers:
            if name == "moto":
                self._servers[name] = self._ends.enter_context(moto())
            else:
                place = self._ends.enter_context(tempfile.TemporaryDirectory(dir=self._directory))
                self._servers[name] = self._ends.enter_context(seaweedfs(Path(place)))
        return self._servers[name]


def _size(method: str, path: str, headers: Mapping[str, str]) -> int:
    """Bytes of a request: its line, its headers, its body; what is quoted in the path counts once."""
    head = len(f"{method} {path} HTTP/1.1\r\n\r\n") + sum(len(name) + len(value) + 4 for name, value in headers.items())
    return head + int(headers.get("content-length", "0"))


def _tell(workload: Workload, case: Case, number: int, said: Mapping[str, Any]) -> None:
    shown = ("commits_per_s", "p50_us", "latest_ms", "latest_us", "refused")
    figures: Iterator[str] = (f"{name} {said[name]:.5g}" for name in shown if said.get(name))
    print(f"{workload.name:16} {number + 1:2} {case.name:28} {', '.join(figures)}", flush=True)
