"""A server that speaks RoboRefer's HTTP API, on real sockets: `POST /query` with images in base64 and a text.

What it answers is set by the test; `faults` makes it fail.
"""

import base64
import io
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Answer = Callable[[str, list[NDArray[np.uint8]]], str]


class RoboReferServer:
    """The server.

    It answers by `answer`, of the text and the decoded images. `faults` are taken one a request: a status, bytes that
    are answered as they are, or seconds to wait.
    """

    def __init__(self) -> None:
        self.base_url = ""
        self.requests: list[dict[str, Any]] = []
        self.faults: deque[int | bytes | float | None] = deque()
        self.reset()

    def reset(self) -> None:
        self.requests.clear()
        self.faults.clear()
        self.answer: Answer = lambda text, images: "[(0.5, 0.5)]"

    def respond(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of one request."""
        if path != "/query":
            return 404, b"{}"
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, float):
            time.sleep(fault)
        if isinstance(fault, int):
            return fault, b"{}"
        if isinstance(fault, bytes):
            return 200, fault
        asked = json.loads(body)
        self.requests.append(asked)
        images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in asked["image_url"]]
        return 200, json.dumps({"result": 1, "answer": self.answer(asked["text"], images)}).encode()


@contextmanager
def running(server: RoboReferServer) -> Iterator[RoboReferServer]:
    """Serve on a free port of the loopback until the `with` ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            status, body = server.respond(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    server.base_url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(timeout=10)
