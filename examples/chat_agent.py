"""An agent over any OpenAI-compatible chat API, with a tool that does something in the world, once.

    python examples/chat_agent.py

It asks a scripted stand-in, offline; or the API of OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY. Press Ctrl-C, or
`kill -9` it, and start it again: it goes on in `chat_agent.db`, and writes no line of `notes.txt` twice.
"""

import asyncio
import json
import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from durable_store import CheckpointConflict, open_store
from durable_store.runtime import Agent, Budget, Turn, run_goal

TASK = {"role": "user", "content": "Write three facts about boiling water down, one by one; say how many you have."}
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
TOOL = {"type": "function", "function": {"name": "note", "description": "Writes a line down.", "parameters": TEXT}}
NOTES = Path("notes.txt")
BASE_URL = os.environ.get("OPENAI_BASE_URL") or import_module("stand_in").started()
MODEL = os.environ.get("OPENAI_MODEL", "stand-in")


async def act(turn: Turn) -> None:
    """Asks the model, or does what it asked for in the turn before: asked again, it may ask for something else."""
    messages = turn.state["messages"]
    print(f"turn {turn.number}, after {messages[-1]}")
    if calls := messages[-1].get("tool_calls"):
        for call in calls:
            content = await turn.once("note", note, turn.context.episode_id, call, on_uncertain=look_first)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
        return
    reply = await asyncio.to_thread(ask, messages)
    turn.budget.add(input_tokens=reply["usage"]["prompt_tokens"], output_tokens=reply["usage"]["completion_tokens"])
    messages.append(reply["choices"][0]["message"])
    if not messages[-1].get("tool_calls"):
        turn.finish(messages[-1]["content"])


def ask(messages: list[Any]) -> Any:
    """One request; an HTTP error ends the program, and the next start asks again."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}
    body = json.dumps({"model": MODEL, "messages": messages, "tools": [TOOL]}).encode()
    with urlopen(Request(f"{BASE_URL}/chat/completions", body, headers), timeout=120) as answer:  # noqa: S310 - yours
        return json.load(answer)


def note(episode_id: int, call: Any) -> str:
    """The tool. It takes a while, so that you can kill it before the line is written, and after."""
    time.sleep(0.2)
    try:
        with NOTES.open("a") as file:
            file.write(f"{episode_id}/{call['id']} {json.loads(call['function']['arguments'])['text']}\n")
    except (ValueError, LookupError, TypeError) as err:  # surely not done: that is a result, for the model to read
        return f"not noted: {err!r}"
    time.sleep(0.2)
    return "noted"


def look_first(name: str, arguments: tuple[Any, ...]) -> str:
    """A process was killed within the tool: the world must say whether it was done."""
    done = NOTES.exists() and f"{arguments[0]}/{arguments[1]['id']} " in NOTES.read_text()
    print(f"  a process was killed within {name!r}, which was {'done' if done else 'not done'}")
    return "noted" if done else note(*arguments)


if __name__ == "__main__":
    agent, cap, start = Agent("assistant", act, max_turns=40), Budget(input_tokens=100_000), {"messages": [TASK]}
    try:
        with open_store("sqlite:///chat_agent.db") as at:
            got = asyncio.run(run_goal("facts", agent, store=at, state=start, budget=cap, fingerprint={"model": MODEL}))
    except (KeyboardInterrupt, CheckpointConflict, OSError) as err:
        raise SystemExit(f"stopped, and the same command goes on: {err!r}") from None
    print(f"result after {got.turns} turns and {got.budget.spent['input_tokens']} input tokens: {got.result}")
