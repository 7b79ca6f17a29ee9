"""Every state that a power cut could leave behind a save on files, and what a fresh process then finds.

A child process runs real calls under strace. Its trace is replayed in a model of a file system that keeps only what
it must: what was written to a file is certain after an fsync of that file, an entry in a directory after an fsync of
that directory. At every moment of the trace a power cut keeps any subset of the uncertain entries, and of a file's
uncertain bytes any prefix, followed by nothing or by zeros. Each such state is made on the disk and read by a fresh
backend. Broken orders of the same calls show that the enumeration finds what it is there to find.

A script says `attempt X` before it changes what `latest` should be (a step, or none) and `saved X` when it has.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pytest

from durable_store.key import CheckpointKey
from durable_store_backends.files import FileBackend

STRACE = shutil.which("strace")
# Present is not enough: some containers forbid ptrace.
strace_works = STRACE is not None and subprocess.run([STRACE, "-o", os.devnull, "true"], check=False).returncode == 0
pytestmark = pytest.mark.skipif(not strace_works, reason="strace is missing (apt-get install strace) or forbidden")

KEY = CheckpointKey("g-42", 3, "orchestrator-0")

PRELUDE = """
import os, sys
from durable_store.key import CheckpointKey
from durable_store_backends.files import FileBackend
root = sys.argv[1]
key = CheckpointKey("g-42", 3, "orchestrator-0")
directory = f"{root}/g-42/000000003/orchestrator-0"
def record(step):
    return f"record of step {step}".encode()
def name(step):
    return f"{directory}/{step:016d}.ckpt"
def attempt(step):
    os.write(1, f"attempt {step}\\n".encode())
def saved(step):
    os.write(1, f"saved {step}\\n".encode())
def write(path, step, *, flush):
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(file, record(step))
    if flush:
        os.fsync(file)
    os.close(file)
def flush(path):
    opened = os.open(path, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)
def save(backend, step):
    attempt(step)
    assert backend.save(key, step, record(step)) == record(step)
    saved(step)
"""

SAVES = """
backend = FileBackend(root)
for step in range(3):
    save(backend, step)
"""

SAVES_WITH_A_NAMED_FILE = "del os.O_TMPFILE" + SAVES

LOST_RACE = """
attempt(0)
os.makedirs(directory)                       # the winner: killed before it flushed any directory
write(f"{root}/temporary", 0, flush=True)
os.link(f"{root}/temporary", name(0))
assert FileBackend(root).save(key, 0, b"of the loser") == record(0)
saved(0)
save(FileBackend(root), 1)
"""

DELETE = """
backend = FileBackend(root)
for step in range(4):
    save(backend, step)
attempt("none")
backend.prune(key, [0, 1, 2, 3])
saved("none")
"""

RETENTION = """
backend = FileBackend(root)
for step in range(4):
    save(backend, step)
backend.prune(key, [0, 1, 2])
save(backend, 4)
"""

# How not to do it, and what must be found out about it.
BROKEN = {
    ("the file is not flushed", "torn records [1]"): """
save(FileBackend(root), 0)
attempt(1)
write(f"{root}/temporary", 1, flush=False)
os.link(f"{root}/temporary", name(1))
flush(directory)
saved(1)
""",
    ("the file is flushed after the link", "torn records [1]"): """
save(FileBackend(root), 0)
attempt(1)
write(f"{root}/temporary", 1, flush=False)
os.link(f"{root}/temporary", name(1))
flush(f"{root}/temporary")
flush(directory)
saved(1)
""",
    ("the directory is not flushed", "0 instead of 1"): """
save(FileBackend(root), 0)
attempt(1)
write(f"{root}/temporary", 1, flush=True)
os.link(f"{root}/temporary", name(1))
saved(1)
""",
    ("renamed into place and not flushed", "torn records [1]"): """
save(FileBackend(root), 0)
attempt(1)
write(f"{directory}/temporary", 1, flush=False)
os.rename(f"{directory}/temporary", name(1))
flush(directory)
saved(1)
""",
    ("written in place", "torn records [1]"): """
save(FileBackend(root), 0)
attempt(1)
write(name(1), 1, flush=True)
flush(directory)
saved(1)
""",
    ("the new directories are not flushed", "none instead of 0"): """
attempt(0)
os.makedirs(directory)
write(f"{root}/temporary", 0, flush=True)
os.link(f"{root}/temporary", name(0))
flush(directory)
saved(0)
""",
    ("the loser of a race flushes nothing", "0 instead of 1"): """
save(FileBackend(root), 0)
attempt(1)
write(f"{root}/temporary", 1, flush=True)
os.link(f"{root}/temporary", name(1))        # the winner
try:
    os.link(f"{root}/temporary", name(1))
except FileExistsError:
    saved(1)
""",
    ("a delete that does not wait for the older ones", "2 instead of 3 or none"): """
backend = FileBackend(root)
for step in range(4):
    save(backend, step)
attempt("none")
for step in range(4):
    os.unlink(name(step))
flush(directory)
saved("none")
""",
}

Tree: TypeAlias = "tuple[tuple[str, Tree | bytes], ...]"
"""A directory as it is found after a power cut: its entries, by name."""

# Calls that change nothing on a disk.
READING = frozenset(
    re.findall(
        r"\w+",
        """access chdir close dup dup2 dup3 execve faccessat faccessat2 fadvise64 fcntl fstat fstatfs getcwd getdents64
        ioctl lseek lstat mmap newfstatat poll pread64 read readlink readlinkat stat statfs statx""",
    )
)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(SAVES, id="saves"),
        pytest.param(SAVES_WITH_A_NAMED_FILE, id="saves without O_TMPFILE"),
        pytest.param(LOST_RACE, id="a lost race"),
        pytest.param(RETENTION, id="retention"),
        pytest.param(DELETE, id="a delete"),
    ],
)
def test_a_power_cut_leaves_the_old_or_the_new_record_and_after_the_call_only_the_new_one(
    script: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    states, wrong = power_cuts(script, tmp_path)
    record_property("crash states", states)
    print(f"{states} crash states")
    assert not wrong
    assert states > 50


@pytest.mark.parametrize(
    ("script", "finding"), [pytest.param(script, finding, id=broken) for (broken, finding), script in BROKEN.items()]
)
def test_a_broken_order_of_the_calls_is_found_out(script: str, finding: str, tmp_path: Path) -> None:
    _, wrong = power_cuts(script, tmp_path)
    assert any(text.startswith(finding) for text in wrong)


def power_cuts(script: str, tmp_path: Path) -> tuple[int, list[str]]:
    """How many states a power cut at each moment of the script could leave, up to one where some are wrong, and how."""
    top, trial = tmp_path / "disk", tmp_path / "after"
    top.mkdir()
    disk = Disk(top)
    found: dict[Tree, str] = {}
    states = 0
    wrong: list[str] = []
    said: list[str] = []
    allowed = {"none"}
    for call in trace(script, top):
        effect = disk.replay(call)
        if effect is None:
            continue
        if verb_and_step := re.fullmatch(r"(attempt|saved) (\w+)\n", effect):
            said.append(effect)
            if verb_and_step[1] == "saved":
                allowed.clear()
            allowed.add(verb_and_step[2])
        for tree in set(disk.after_a_power_cut()):
            states += 1
            if tree not in found:
                found[tree] = what_a_fresh_process_finds(tree, trial)
            if found[tree] not in allowed:
                wrong.append(f"{found[tree]} instead of {' or '.join(sorted(allowed))} after {call}")
        if wrong:  # what comes after may be any number of states
            return states, wrong
    assert said, "the script said nothing"
    assert said[-1].startswith("saved"), "the script did not come to its end"
    return states, wrong


def trace(script: str, top: Path) -> list[str]:
    """The system calls of a child process that runs the script on a store below `top`."""
    log = top.with_name("trace")
    assert STRACE
    command = [STRACE, "-f", "-y", "-s", "4096", "-e", "trace=%file,%desc", "-o", str(log)]
    subprocess.run(
        [*command, sys.executable, "-B", "-c", PRELUDE + script, str(top / "new" / "store")],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
    )
    return log.read_text().splitlines()


def what_a_fresh_process_finds(tree: Tree, trial: Path) -> str:
    """The step that is the latest, or none; or what is wrong."""
    make(tree, trial)
    backend = FileBackend(trial / "new" / "store")
    try:
        steps = backend.steps(KEY)
        torn = [step for step in steps if backend.load(KEY, step) != b"record of step %d" % step]
        latest = backend.latest(KEY)
    finally:
        backend.close()
        shutil.rmtree(trial)
    if torn:
        return f"torn records {torn}"
    return "none" if latest is None else str(latest[0])


def make(tree: Tree, directory: Path) -> None:
    directory.mkdir()
    for name, content in tree:
        if isinstance(content, bytes):
            (directory / name).write_bytes(content)
        else:
            make(content, directory / name)


@dataclass(eq=False)
class File:
    certain: bytes = b""
    now: bytes = b""

    def flush(self) -> None:
        self.certain = self.now

    def after_a_power_cut(self) -> list[bytes]:
        if self.certain == self.now:
            return [self.now]
        whole = len(self.now)
        prefixes = [self.now[:length] for length in range(whole + 1)]
        return [*{self.certain, *prefixes, *(prefix.ljust(whole, b"\0") for prefix in prefixes)}]


@dataclass(eq=False)
class Directory:
    certain: "dict[str, File | Directory]" = field(default_factory=dict)
    uncertain: "list[dict[str, File | Directory | None]]" = field(default_factory=list)

    def now(self) -> "dict[str, File | Directory]":
        return self.with_changes(self.uncertain)

    def with_changes(self, changes: "list[dict[str, File | Directory | None]]") -> "dict[str, File | Directory]":
        entries: dict[str, File | Directory | None] = dict(self.certain)
        for change in changes:
            entries.update(change)
        return {name: node for name, node in entries.items() if node is not None}

    def flush(self) -> None:
        self.certain = self.now()
        self.uncertain.clear()


class Disk:
    """The part of the file system below one directory: what is certain, and what a power cut may undo."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.root = Directory()
        self.opened: dict[int, File | Directory | None] = {}

    def replay(self, line: str) -> str | None:  # noqa: C901, PLR0912 - one case for each kind of call
        """Does in the model what a line of the trace did: the call, or what it wrote to stdout; None if nothing."""
        name = re.match(r"\d+ +(\w+)\(", line)
        if name is None or name[1] in READING:
            return None  # or a signal, or the end
        match = re.fullmatch(r"\d+ +(\w+)\((.*)\) += (-?\d+)(?:<.*>\S*)?(?: .*)?", line)
        assert match, f"not understood: {line}"
        call, arguments, result = match[1], match[2], int(match[3])
        if result < 0:
            return None
        fd = int(number[0]) if (number := re.match(r"\d+", arguments)) else -1
        paths = [
            os.path.normpath(Path(directory, path))
            for directory, path in re.findall(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"([^"]*)"', arguments)
        ]
        match call:
            case "open" | "openat":
                self.opened[result] = self.open(paths[0], arguments)
                return call if "O_CREAT" in arguments else None
            case "write" if fd == 1:
                return self.written(arguments).decode()
            case "write":
                if isinstance(file := self.opened.get(fd), File):
                    file.now += self.written(arguments)
            case "fsync" | "fdatasync":
                if (node := self.opened.get(fd)) is not None:
                    node.flush()
            case "mkdir" | "mkdirat":
                self.change({paths[0]: Directory()})
            case "link" | "linkat":
                unnamed = re.fullmatch(r"/proc/self/fd/(\d+)", paths[0])
                self.change({paths[1]: self.opened[int(unnamed[1])] if unnamed else self.find(paths[0])})
            case "rename" | "renameat" | "renameat2":
                self.change({paths[0]: None, paths[1]: self.find(paths[0])})
            case "unlink" | "unlinkat" | "rmdir":
                self.change({paths[0]: None})
            case _:
                assert str(self.top) not in line, f"the model does not know {line}"
        return call

    def open(self, path: str, flags: str) -> File | Directory | None:
        if "O_TMPFILE" in flags:
            return File()
        node = self.find(path)
        if node is None and "O_CREAT" in flags:
            node = File()
            self.change({path: node})
        assert "O_TRUNC" not in flags or not isinstance(node, File) or not node.now, f"the model truncates no {path}"
        return node

    def written(self, arguments: str) -> bytes:
        match = re.search(r', "((?:[^"\\]|\\.)*)", \d+$', arguments)
        assert match, arguments
        return match[1].encode().decode("unicode_escape").encode("latin-1")

    def find(self, path: str) -> File | Directory | None:
        node: File | Directory | None = self.root
        if not Path(path).is_relative_to(self.top):
            return None
        for name in Path(path).relative_to(self.top).parts:
            if not isinstance(node, Directory):
                return None
            node = node.now().get(name)
        return node

    def change(self, entries: dict[str, File | Directory | None]) -> None:
        """One change that a power cut keeps or undoes as a whole, in one directory."""
        (parent,) = {os.path.dirname(path) for path in entries}  # noqa: PTH120
        directory = self.find(parent)
        if isinstance(directory, Directory):
            directory.uncertain.append({os.path.basename(path): node for path, node in entries.items()})  # noqa: PTH119

    def after_a_power_cut(self) -> Iterator[Tree]:
        nodes = self.nodes(self.root)
        files = [node for node in nodes if isinstance(node, File)]
        directories = [node for node in nodes if isinstance(node, Directory)]
        for contents in itertools.product(*(file.after_a_power_cut() for file in files)):
            content = dict(zip(files, contents, strict=True))
            for kept in itertools.product(*(subsets(directory.uncertain) for directory in directories)):
                entries = {
                    directory: directory.with_changes(changes)
                    for directory, changes in zip(directories, kept, strict=True)
                }
                yield self.tree(self.root, entries, content)

    def nodes(self, node: File | Directory) -> list[File | Directory]:
        """All that may be found after a power cut, each once."""
        found: dict[File | Directory, None] = {node: None}
        if isinstance(node, Directory):
            for entry in itertools.chain(node.certain.values(), *(change.values() for change in node.uncertain)):
                if entry is not None:
                    found.update(dict.fromkeys(self.nodes(entry)))
        return list(found)

    def tree(
        self, directory: Directory, entries: dict[Directory, dict[str, File | Directory]], content: dict[File, bytes]
    ) -> Tree:
        return tuple(
            (name, content[node] if isinstance(node, File) else self.tree(node, entries, content))
            for name, node in sorted(entries[directory].items())
        )


def subsets(changes: list[dict[str, File | Directory | None]]) -> Iterator[list[dict[str, File | Directory | None]]]:
    for kept in itertools.product((False, True), repeat=len(changes)):
        yield list(itertools.compress(changes, kept))
