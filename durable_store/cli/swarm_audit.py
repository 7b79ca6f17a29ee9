"""What the reports of killed swarms come to, and the promises that they break, if they do."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any


@dataclass(slots=True)
class Audit:
    """Listens to one process after another.

    Attributes:
        turns: how many everybody is to take.
        acknowledged: how many turns of everybody are known to be committed.
        begun: how many were begun.
        finished: whose results were had.
        redone: how many turns were begun again.
        uncertain: effects that were reported as uncertain, and whether the hook found them done.
        lost: turns that were acknowledged and are gone, or that nobody took.
        attempt: in which the last report was made.
        doing: what it told.
        run_again: children that acted after their result was had, and turns that one process took twice.
    """

    turns: dict[str, int]
    acknowledged: dict[str, int] = field(default_factory=dict[str, int])
    begun: dict[str, int] = field(default_factory=dict[str, int])
    finished: set[str] = field(default_factory=set[str])
    redone: int = 0
    uncertain: dict[tuple[str, int], bool] = field(default_factory=dict[tuple[str, int], bool])
    lost: list[str] = field(default_factory=list[str])
    run_again: list[str] = field(default_factory=list[str])
    attempt: int = 0
    doing: str = ""
    _process: int = 0
    _met: dict[str, int] = field(default_factory=dict[str, int])
    _begun_here: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])

    def next_process(self) -> None:
        """What is heard from here on comes from a fresh process."""
        self._process += 1
        self._met.clear()
        self._begun_here.clear()
        self.doing = ""

    def hear(self, event: str, who: str, turn: int = 0, word: str = "") -> None:
        """Takes down a report."""
        self.attempt = _attempt(who)
        self.doing = f"{_short(who)} {_DOING[event]}"
        if event == "reached":
            self._reached(who, turn)
        elif event == "begin":
            self._begin(who, turn)
        elif event == "uncertain":
            self.uncertain[who, turn] = word == "sent"
        elif event == "finished":
            self._finished(who)
        for earlier in range(self.attempt):  # one begins when the one before it has finished
            if str(earlier) not in self.finished:
                self._finished(str(earlier))

    def agents(self, attempt: int) -> list[str]:
        """Who acts in an attempt, its root first."""
        return [who for who in self.turns if _attempt(who) == attempt]

    def known(self, attempt: int) -> str:
        """How many turns of everybody in an attempt are acknowledged."""
        return " ".join(str(self.acknowledged.get(who, 0)) for who in self.agents(attempt))

    def resumed(self, attempt: int) -> str:
        """Behind how many turns this process went on; `-` for whom it had not come to."""
        there = {**self._met, **{who: self.turns[who] for who in self.finished if who not in self._met}}
        return " ".join(str(there.get(who, "-")) for who in self.agents(attempt))

    @property
    def kept(self) -> int:
        """How many children have finished and did not act in this process."""
        return sum("/" in who and who not in self._met for who in self.finished)

    def end(self) -> None:
        """All is heard: whoever has turns left was forgotten."""
        for who, turns in self.turns.items():
            if self.begun.get(who, 0) != turns:
                self.lost.append(f"{_name(who)} took {self.begun.get(who, 0)} turns of {turns}")

    def _reached(self, who: str, turn: int) -> None:
        known = self.acknowledged.get(who, 0)
        if who in self.finished:
            self.run_again.append(f"{_name(who)} had finished, and acts again in process {self._process}")
        elif turn < known:
            self.lost.append(
                f"{known} turns of {_name(who)} were acknowledged, and process {self._process} went on behind {turn}"
            )
        elif turn > self.begun.get(who, 0):
            self.lost.append(f"{_name(who)} comes to turn {turn}, and never began turn {turn - 1}")
        self.acknowledged[who] = max(known, turn)
        self._met.setdefault(who, turn)

    def _begin(self, who: str, turn: int) -> None:
        if (who, turn) in self._begun_here:
            self.run_again.append(f"{_name(who)} began turn {turn} twice in process {self._process}")
        self._begun_here.add((who, turn))
        self.redone += turn < self.begun.get(who, 0)
        self.begun[who] = max(self.begun.get(who, 0), turn + 1)

    def _finished(self, who: str) -> None:
        self.finished.add(who)
        self.acknowledged[who] = self.begun.get(who, 0)


_DOING = {
    "reached": "waiting",
    "begin": "at work",
    "mail": "mailing",
    "uncertain": "mailing",
    "commit": "committing",
    "finished": "finishing",
}


def _short(who: str) -> str:
    """Within its attempt."""
    return f"child {who.split('/')[1]}" if "/" in who else "root"


def _name(who: str) -> str:
    return f"{_short(who)} of attempt {_attempt(who)}"


def _attempt(who: str) -> int:
    return int(who.split("/", maxsplit=1)[0])


def wrongly_sent(mails: list[str], uninterrupted: list[str], count: int) -> list[str]:
    """The mails that were not sent exactly once, those that nobody was to send among them."""
    sent, wanted = Counter(mails), Counter(uninterrupted)
    found = [
        f"mail {mail.split(':')[0]} was sent {_times(sent[mail])}, and uninterrupted {_times(wanted[mail])}"
        for mail in {**wanted, **sent}
        if not sent[mail] == 1 == wanted[mail]
    ]
    if len(wanted) != count:
        found.append(f"uninterrupted, {len(wanted)} mails were sent instead of {count}")
    return found


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")


def differences(killed: dict[str, Any], uninterrupted: dict[str, Any]) -> list[str]:
    """Where two outcomes differ."""
    one, other = killed["attempts"], uninterrupted["attempts"]
    found = [
        f"{name} of attempt {number} is {a.get(name)!r} instead of {b.get(name)!r}"
        for number, (a, b) in enumerate(zip_longest(one, other, fillvalue=dict[str, Any]()))
        for name in ("score", "result", "turns")
        if a.get(name) != b.get(name)
    ]
    if killed["winner"] != uninterrupted["winner"]:
        found.insert(0, f"attempt {killed['winner']} has won instead of attempt {uninterrupted['winner']}")
    return found
