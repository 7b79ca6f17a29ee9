"""What is in the directory of a store on files and is no part of it, or is open to others than its owner."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from durable_store.key import id_from_storage_name
from durable_store_backends.files import is_directory

_EPISODE = re.compile(r"[0-9]{9}")
_RECORD = re.compile(r"[0-9]{16}\.ckpt")
_NEARLY_A_RECORD = re.compile(r"0*([0-9]{1,16})\.ckpt.*")
_UNNAMED = re.compile(r"\.[0-9a-f]{16}")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def strangers(root: Path) -> Iterator[tuple[str, str, str]]:
    """Of each its path; `foreign`, `duplicate`, `left over` or `permissions`; and what is wrong, in words."""
    if root.is_dir():
        yield from _below(root, 0)


def _below(directory: Path, depth: int) -> Iterator[tuple[str, str, str]]:
    """What is in a directory: of goals, of episodes, of checkpoints, of records."""
    try:
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:  # removed meanwhile
        return
    for entry in entries:
        if depth == 3:
            yield from _of_record(entry)
        elif not _is_ours(entry.name, depth) or not is_directory(entry):
            yield entry.path, "foreign", f"{entry.path} is nothing that this store has made"
        else:
            yield from _open_to_others(Path(entry.path))
            yield from _below(Path(entry.path), depth + 1)


def _is_ours(name: str, depth: int) -> bool:
    return bool(_EPISODE.fullmatch(name)) if depth == 1 else id_from_storage_name(name) is not None


def _of_record(entry: os.DirEntry[str]) -> Iterator[tuple[str, str, str]]:
    nearly = _NEARLY_A_RECORD.fullmatch(entry.name)
    if _RECORD.fullmatch(entry.name):
        if not is_directory(entry):  # else it cannot be read, which is told of the step
            yield from _open_to_others(Path(entry.path))
    elif _UNNAMED.fullmatch(entry.name):
        yield entry.path, "left over", f"{entry.path} never got the name of a record"
    elif nearly:
        step = int(nearly[1])
        yield (
            entry.path,
            "duplicate",
            f"{entry.path} looks like step {step}, whose name is {step:016d}.ckpt",
        )
    else:
        yield entry.path, "foreign", f"{entry.path} is nothing that this store has made"


def _open_to_others(path: Path) -> Iterator[tuple[str, str, str]]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:  # removed meanwhile, or a link in a circle: that cannot be read, which is told of the step
        return
    if mode & _OTHERS:
        yield str(path), "permissions", f"{path} has mode {mode:04o}: others than its owner may use it"
