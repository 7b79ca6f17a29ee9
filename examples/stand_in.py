"""A stand-in for an OpenAI-compatible chat API: scripted, offline, and always of the same answers.

    python examples/stand_in.py         # on a free port
    python examples/stand_in.py 8321

serves `/v1/chat/completions` on loopback and says which OPENAI_BASE_URL that is. It keeps nothing: the answer follows
from the conversation alone, so it can be killed and started again as well. It asks for a note of each fact in FACTS,
and then it is done.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FACTS = ("water boils at 100 degrees", "at 95 in Bogota", "at 71 on Mount Everest")
SECONDS = 0.2  # for each answer: it thinks


class Answers(BaseHTTPRequestHandler):
    """Answers one request, as such an API does."""

    def do_POST(self) -> None:
        """The next message of the script; refuses what the real ones refuse."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self._send(404, {"error": {"message": f"there is no {self.path}"}})
        elif open_calls(asked["messages"]):
            self._send(400, {"error": {"message": f"no answer to {open_calls(asked['messages'])}"}})
        else:
            time.sleep(SECONDS)
            message, reason = scripted(asked["messages"])
            usage = {"prompt_tokens": len(json.dumps(asked)) // 4, "completion_tokens": len(json.dumps(message)) // 4}
            choice = {"index": 0, "message": message, "finish_reason": reason}
            self._send(200, {"object": "chat.completion", "choices": [choice], "usage": usage})

    def _send(self, status: int, body: object) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class calls it
        """Says nothing."""


def open_calls(messages: list[Any]) -> list[str]:
    """The tool calls that nobody has answered."""
    answered = {message.get("tool_call_id") for message in messages}
    calls = [call["id"] for message in messages for call in message.get("tool_calls") or ()]
    return [call for call in calls if call not in answered]


def scripted(messages: list[Any]) -> tuple[dict[str, Any], str]:
    """The next message, and why it ends."""
    done = sum(message["role"] == "tool" for message in messages)
    if done == len(FACTS):
        return {"role": "assistant", "content": f"I have noted {done} facts."}, "stop"
    function = {"name": "note", "arguments": json.dumps({"text": FACTS[done]})}
    call = {"id": f"call-{done}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"


def started(port: int = 0) -> str:
    """Serves in a thread of this process, and returns the base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v1"


if __name__ == "__main__":
    try:
        print(f"OPENAI_BASE_URL={started(int(sys.argv[1]) if sys.argv[1:] else 0)}", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        sys.exit(0)
