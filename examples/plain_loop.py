"""An agent's loop with `store.resume`, and nothing else: it guesses a number, a guess in each turn.

    python examples/plain_loop.py

Press Ctrl-C at any moment, or `kill -9` it from another terminal, and give the same command again: it goes on behind
the last turn that it said was committed. Start it in two terminals at once: the first to commit the next turn owns the
game, the other one is refused at its own commit, and stops. When the number is found, the next start plays another
game. The store is `plain_loop.db`, in the directory where you are.
"""

import sys
import time
from typing import Any

from durable_store import CheckpointConflict, Run, StoreUnavailable, open_store

SECRET = 618


def main() -> None:
    """Thinks, tries and commits, turn by turn, until the number is found."""
    with (
        open_store("sqlite:///plain_loop.db") as store,
        store.resume("guess-a-number", "guesser-0", initial={"messages": []}) as run,
    ):
        print(f"episode {run.key.episode_id}: " + (f"goes on after turn {run.step}" if run.resumed else "begins"))
        state = run.state  # a copy: what is changed here is nobody else's
        while not found(state["messages"]):
            guess = think(state["messages"])
            state["messages"].append({"guess": guess, "answer": ask(guess)})
            turn = commit(run, state)
            print(f"turn {turn} is committed: {guess} is {state['messages'][-1]['answer']}")
        run.finish({"number": state["messages"][-1]["guess"], "guesses": len(state["messages"])})
    print(f"result: {run.result}")


def found(messages: list[Any]) -> bool:
    """Whether the last guess was right."""
    return bool(messages) and messages[-1]["answer"] == "right"


def think(messages: list[Any]) -> int:
    """The next guess. In your agent: a call of a model with all that was said so far."""
    time.sleep(0.25)
    low = max((each["guess"] for each in messages if each["answer"] == "too low"), default=0)
    high = min((each["guess"] for each in messages if each["answer"] == "too high"), default=1000)
    return (low + high) // 2


def ask(guess: int) -> str:
    """What the world says to a guess. In your agent: a tool."""
    return "right" if guess == SECRET else "too low" if guess < SECRET else "too high"


def commit(run: Run, state: object) -> int:
    """Commits the state, and the same state again while the store cannot be reached, for a quarter of a minute."""
    for seconds in (1, 2, 4, 8):
        try:
            return run.commit(state)
        except StoreUnavailable as err:
            print(f"tries again in {seconds} s: {err}")
            time.sleep(seconds)
    return run.commit(state)


if __name__ == "__main__":
    try:
        main()
    except CheckpointConflict as err:  # never to be retried: another process owns the run
        sys.exit(f"stopped: {err}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on")
