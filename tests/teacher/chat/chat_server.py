"""A chat endpoint on the loopback: answers by a rule, remembers what it was asked, and fails where it is told to."""

import json
import math
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Rule = Callable[[str, int], dict[str, float]]
"""Probabilities of words, of a prompt and a seed."""


class ChatServer:
    """
    Attributes:
        seen: How often each body was read, by the text of its prompt (and its seed, where it has one).
        failures: Statuses that the next requests are answered with; 0 closes the connection.
        gate: Cleared, it keeps requests from being read.
    """

    def __init__(self, rule: Rule, *, gives_logprobs: bool | None = True, key: str = "") -> None:
        self.rule, self.gives_logprobs, self.key = rule, gives_logprobs, key
        self.seen: Counter[tuple[str, int | None]] = Counter()
        self.failures: list[int] = []
        self.retry_after: str | None = None
        self.limit: int | None = None  # no more than so many are let in
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    def admit(self, body: dict, connection: socket.socket) -> int:
        """The status of a request that has come in, once the gate is open."""
        while True:
            self.gate.wait()
            with self.lock:
                if self.limit is not None and sum(self.seen.values()) >= self.limit:
                    self.gate.clear()
                elif _is_gone(connection):
                    return 0  # who sent it was killed before it was read
                elif self.failures:
                    return self.failures.pop(0)
                elif body.get("logprobs") and self.gives_logprobs is None:
                    return 400
                else:
                    self.seen[(body["messages"][-1]["content"], body.get("seed"))] += 1
                    return 200

    def reply(self, body: dict) -> dict:
        prompt = body["messages"][-1]["content"]
        words = self.rule(prompt, body.get("seed", 0))
        likeliest = sorted(words, key=lambda word: -words[word])
        choice: dict = {"message": {"role": "assistant", "content": likeliest[0]}}
        if body.get("logprobs") and self.gives_logprobs:
            top = [{"token": word, "logprob": math.log(words[word])} for word in likeliest[: body["top_logprobs"]]]
            choice["logprobs"] = {"content": [{"token": likeliest[0], "top_logprobs": top}]}
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": 1}
        return {"choices": [choice], "usage": usage}


def _is_gone(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                self._send(404, {"error": {"message": f"no {self.path}"}})
                return
            if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                given = self.headers.get("Authorization")
                self._send(401, {"error": {"message": f"wrong key: {given}"}})
                return
            status = server.admit(body, self.connection)
            if status == 0:
                self.close_connection = True
                self.connection.close()
            elif status == 200:
                self._send(200, server.reply(body))
            else:
                self._send(status, {"error": {"message": "as told"}})

        def _send(self, status: int, answer: dict) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            if server.retry_after and status != 200:
                self.send_header("Retry-After", server.retry_after)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@contextmanager
def serving(rule: Rule, **settings) -> Iterator[ChatServer]:
    server = ChatServer(rule, **settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
