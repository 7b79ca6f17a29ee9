"""Decides, from what several processes were told, whether the store kept its promises.

A history is all the operations of all processes, each with the moments between which it happened, on one clock. A
record is known by its digest. Beside what processes were told there is what they left behind, which is read at the end,
when nothing is on its way any more: it is one more answer, the last one.

A step that is pruned may be created anew by a request that was late, so nothing counts that was told of a step after a
prune of it was asked for. `violations` objects only where no order of events explains the answers; without prunes it
also objects everywhere else, which tests/test_history.py compares with a search through all orders.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Any, NamedTuple, Self

End = Mapping[str, Mapping[int, str]]
"""Which records lie where when all is over: the steps of each key, and the record of each step."""


class Op(NamedTuple):
    """One operation as its process saw it.

    Attributes:
        process: who did it.
        what: `save`, `load`, `latest`, `prune`, or the `commit` of a run, which consists of such.
        key: where.
        step: what it was about; of a latest, nothing.
        record: what was to be saved; of a commit that was acknowledged, what was saved.
        writer: whose record that is.
        previous: the record that it says it builds on, `""` for none.
        outcome: `done`; `ours` or `theirs` of a save; `conflict`; `maybe-saved`; `unavailable`, which says that nothing
            was done.
        found: step and record that were there.
        steps: what was to be pruned.
        invoked: when it began, in seconds.
        answered: when it ended.
    """

    process: str
    what: str
    key: str
    step: int = -1
    record: str = ""
    writer: str = ""
    previous: str = ""
    outcome: str = "done"
    found: tuple[int, str] | None = None
    steps: tuple[int, ...] = ()
    invoked: float = 0
    answered: float = 0

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> Self:
        """What became of its fields in JSON."""
        found: Any = fields["found"] and tuple(fields["found"])
        steps: Any = tuple(fields.get("steps", ()))
        return cls(**{**fields, "found": found, "steps": steps})

    def __str__(self) -> str:
        about = f"step {self.step}" if self.step >= 0 else f"steps {self.steps}" if self.steps else ""
        said = f"{self.outcome} {self.found}" if self.found else self.outcome
        return (
            f"{self.process}'s {self.what} {self.key} {about} {self.record[:12]} ({self.invoked:.3f} to"
            f" {self.answered:.3f}: {said})"
        )


def violations(
    history: Iterable[Op],
    end: End,
    *,
    keep: Mapping[str, int | None] | None = None,
    patience: Mapping[str, float] | None = None,
) -> list[str]:
    """What contradicts the promises, a line each.

    Args:
        history: the operations, in any order.
        end: what they left behind.
        keep: how many of the newest steps the runs of a key keep; a key that is not named here has no runs.
        patience: how many seconds an operation may take, by what it does.
    """
    of_key: defaultdict[str, list[Op]] = defaultdict(list)
    for op in history:
        of_key[op.key].append(op)
    found = list[str]()
    for key in sorted({*of_key, *end}):
        story = Story(of_key[key], end.get(key, {}))
        for rule in (one_winner, none_from_nowhere, one_moment, none_gone_unpruned, newest, rival, chain):
            found += [f"{key}: {complaint}" for complaint in rule(story)]
        if keep and key in keep:
            found += [f"{key}: {complaint}" for complaint in retention(story, keep[key])]
        found += [f"{key}: {complaint}" for complaint in no_hang(story, patience or {})]
    return found


class Seen(NamedTuple):
    """Somebody was told which record is at a step."""

    record: str
    answered: float
    by: str


class Story:
    """What was done to one key, sorted by what it tells.

    Attributes:
        ops: all of it.
        end: what is there when all is over.
        pruned: when a prune of a step was first asked for.
        sent: when a record was first sent, by a save that may have created it.
        seen: who was told what of a step while that counts.
        commits: what runs were told that they have committed.
    """

    def __init__(self, ops: list[Op], end: Mapping[int, str]) -> None:
        self.ops = ops
        self.end = end
        self.pruned: dict[int, float] = {}
        self.sent: dict[str, float] = {}
        self.seen: defaultdict[int, list[Seen]] = defaultdict(list)
        self.commits = [op for op in ops if op.what == "commit" and op.outcome == "done"]
        for op in ops:
            for step in op.steps:
                self.pruned[step] = min(op.invoked, self.pruned.get(step, inf))
            if op.what == "save" and op.outcome != "unavailable":
                self.sent[op.record] = min(op.invoked, self.sent.get(op.record, inf))
        for op in ops:
            if op.outcome == "ours" or (op.what == "commit" and op.outcome == "done"):
                self._see(op.step, op.record, op.answered, str(op))
            elif op.found:
                self._see(*op.found, op.answered, str(op))
        for step, record in end.items():
            self._see(step, record, inf, "the end")

    def counts(self, step: int, answered: float) -> bool:
        """Whether it was told before anybody asked for a prune of the step."""
        return step not in self.pruned or answered < self.pruned[step]

    def winner(self, step: int) -> str | None:
        """The record that was at the step, as far as anybody knows."""
        return self.seen[step][0].record if step in self.seen else None

    def may_have_been_there(self, step: int, record: str) -> bool:
        """Whether it can have been at the step, however shortly."""
        return step in self.pruned or self.winner(step) == record

    def _see(self, step: int, record: str, answered: float, by: str) -> None:
        if self.counts(step, answered):
            self.seen[step].append(Seen(record, answered, by))


def one_winner(story: Story) -> Iterator[str]:
    """All who were ever told which record is at a step were told the same one."""
    for step, seen in story.seen.items():
        for other in seen:
            if other.record != seen[0].record:
                yield f"step {step} has two winners: {seen[0].by}, and {other.by}"


def none_from_nowhere(story: Story) -> Iterator[str]:
    """A record that is seen was sent, as it is, by a save that was not told `unavailable`."""
    for step, seen in story.seen.items():
        for each in seen:
            if each.record not in story.sent:
                told = next((str(op) for op in story.ops if op.what == "save" and op.record == each.record), "nobody")
                yield f"the record at step {step} ({each.by}) was saved by {told}"


def one_moment(story: Story) -> Iterator[str]:
    """A record appears at one moment and stays.

    That moment is not before the record was sent, nor before anybody missed it; and not after anybody saw it, and an
    acknowledged save has seen its record. So what was acknowledged is found by each later load and at the end, and no
    latest is lower than what was known before it was asked. Who missed a step because the latest was a lower one saw
    that lower one: the higher step is the younger.
    """
    missed: defaultdict[int, list[tuple[float, str]]] = defaultdict(list)
    latest = list[Op]()
    for op in story.ops:
        if op.what == "load" and op.outcome == "done" and not op.found and story.counts(op.step, op.answered):
            missed[op.step].append((op.invoked, str(op)))
        elif op.what == "latest" and op.outcome == "done":
            latest.append(op)
    since: dict[int, float] = {}
    for step in sorted(story.seen):
        record, by_when, by = min(story.seen[step], key=lambda seen: seen.answered)
        misses = [(story.sent.get(record, -inf), "it was not sent before that"), *missed[step]]
        for op in latest:
            highest = op.found[0] if op.found else -1
            if highest < step and story.counts(step, op.answered):
                misses.append((max(op.invoked, since.get(highest, -inf)), str(op)))
        if step not in story.end and step not in story.pruned:
            misses.append((inf, "it is missing at the end"))
        since[step], because = max(misses)
        if since[step] > by_when:
            yield f"step {step} was there at {by_when:.3f} ({by}), and was not at {since[step]:.3f} ({because})"


def none_gone_unpruned(story: Story) -> Iterator[str]:
    """A save is told of a conflict with a record that is gone only if somebody asked for a prune of that step."""
    for op in story.ops:
        if op.what == "save" and op.outcome == "conflict" and story.pruned.get(op.step, inf) > op.answered:
            yield f"nobody has pruned what was gone: {op}"


def newest(story: Story) -> Iterator[str]:
    """No higher step is known, to anybody, before an acknowledged commit begins."""
    by_when = {step: min(seen, key=lambda each: each.answered) for step, seen in story.seen.items()}
    for op in story.commits:
        for step, seen in by_when.items():
            if step > op.step and seen.answered < op.invoked:
                yield f"{op} was acknowledged, though step {step} was there before it ({seen.by})"


def rival(story: Story) -> Iterator[str]:
    """A commit is told of a conflict only if somebody else's record was there before: at its step, or at a higher one.

    At a higher one, if the record at its step is its own. That goes for a save too: `theirs` is not its own.
    """
    saves = [op for op in story.ops if op.what == "save" and op.outcome != "unavailable"]
    for op in story.ops:
        if op.outcome == "theirs" and op.found and op.found[1] == op.record:
            yield f"{op} was told that its own record is somebody else's"
        if op.what != "commit" or op.outcome != "conflict":
            continue
        own = {save.record for save in saves if save.writer == op.writer and save.step == op.step}
        lowest = op.step + 1 if story.winner(op.step) in own else op.step
        if not any(
            save.step >= lowest
            and save.writer != op.writer
            and save.invoked < op.answered
            and story.may_have_been_there(save.step, save.record)
            for save in saves
        ):
            yield f"{op} was told of a conflict, and there was nobody else"


def chain(story: Story) -> Iterator[str]:
    """An acknowledged commit builds on the record of the step before; the first one on none."""
    previous = {op.record: op.previous for op in story.ops if op.what == "save"}
    for op in story.commits:
        before = story.winner(op.step - 1)
        if previous.get(op.record, "") != (before or "") and (before or op.step - 1 not in story.pruned):
            yield f"{op} builds on {previous.get(op.record)!r} and not on {before!r}, which was there"


def retention(story: Story, keep: int | None) -> Iterator[str]:
    """At the end there are the newest `keep` of what was acknowledged, and the first of each run; all, without keep."""
    top = max((op.step for op in story.commits), default=-1)
    first: dict[str, Op] = {}
    for op in sorted(story.commits, key=lambda op: op.step):
        first.setdefault(op.writer, op)
    for op in story.commits:
        stays = keep is None or op.step > top - keep or first[op.writer] is op
        if stays and story.end.get(op.step) != op.record:
            yield f"{op} is not there any more, and is not for retention to remove"


def no_hang(story: Story, patience: Mapping[str, float]) -> Iterator[str]:
    """No operation takes longer than its time-outs allow."""
    for op in story.ops:
        took, allowed = op.answered - op.invoked, patience.get(op.what, inf)
        if took > allowed:
            yield f"{op} took {took:.1f} s; its time-outs allow {allowed:.1f}"
