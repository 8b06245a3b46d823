"""A server that sends one byte after another and never comes to an end."""

import contextlib
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def dripping() -> Iterator[str]:
    """Its address."""
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + b" " * 10_000
            while not over.wait(0.05):
                connection.sendall(answer[:1])
                answer = answer[1:]

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        over.set()
