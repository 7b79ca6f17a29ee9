"""What a process and the kernel know of it, and the arithmetic on that: medians, spreads, ratios within a round."""

import re
import resource
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Figures = Mapping[str, Any]


class Spread(NamedTuple):
    """A median, and between what it lies."""

    median: float
    least: float
    most: float


def spread(values: Iterable[float]) -> Spread | None:
    """None of no values."""
    values = sorted(values)
    return Spread(statistics.median(values), values[0], values[-1]) if values else None


def of_rounds(rounds: Sequence[Figures], figure: str) -> Spread | None:
    """The spread of a figure over the rounds that have it."""
    return spread(float(each[figure]) for each in rounds if each.get(figure) is not None)


def ratio(rounds: Sequence[Figures], others: Sequence[Figures], figure: str) -> Spread | None:
    """The spread of the ratios of a figure to that of another contestant in the same round: machines drift."""
    return spread(
        float(one[figure]) / float(other[figure])
        for one, other in zip(rounds, others, strict=False)
        if one.get(figure) is not None and other.get(figure)
    )


def written() -> dict[str, int]:
    """Bytes that this process has handed to `write` and the like, and those of them that are for a disk (Linux)."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return {}
    fields = dict(line.split(": ") for line in lines)
    return {"wchar": int(fields["wchar"]), "write_bytes": int(fields["write_bytes"])}


def written_since(before: Mapping[str, int]) -> dict[str, int]:
    """What has been written since `written` was asked."""
    return {name: now - before[name] for name, now in written().items()}


def memory() -> dict[str, int]:
    """Bytes: what is in memory, and the most that ever was."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # no Linux: the peak alone
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"now": peak, "peak": peak}
    # Not ru_maxrss, which a process inherits through exec from the one that started it.
    found = {name: int(size) * 1024 for name, size in re.findall(r"(VmHWM|VmRSS):\s+(\d+) kB", status)}
    return {"now": found["VmRSS"], "peak": found["VmHWM"]}


def disk(place: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def flushes_between_marks(trace: str) -> int | None:
    """The flushes in what strace wrote between the first and the last `getppid`, by which the process marks.

    A call that another thread's interrupts in the trace has two lines, of which one counts.
    """
    calls: list[str] = re.findall(
        r"^(?:\d+ +)?(?:[\d.]+ +)?(fsync|fdatasync|sync_file_range|getppid)\(", trace, re.MULTILINE
    )
    marks = [at for at, call in enumerate(calls) if call == "getppid"]
    if len(marks) < 2:
        return None
    return sum(call != "getppid" for call in calls[marks[0] : marks[-1]])
