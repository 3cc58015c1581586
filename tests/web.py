"""A web server on loopback that does what a test tells it, for the tests of downloads."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """What is served under every path, and how.

    Args:
        content: the file.
        cuts: bytes after which each of the next answers breaks off; at the end they are whole.
        ranges: whether a Range is honoured.
        etag: whether answers carry the ETag of the content; likewise `length` its Content-Length.
        status, type: of every answer.
        ask_if: whether If-Range is looked at.
        gate: an answer waits for it.
    """

    content: bytes
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    etag: bool = True
    length: bool = True
    status: int = 200
    type: str = "application/octet-stream"
    ask_if: bool = True
    gate: threading.Event | None = None
    requests: list[dict[str, str]] = field(default_factory=list)
    """Headers of what was asked for."""
    url: str = ""
    waiting: threading.Event = field(default_factory=threading.Event)
    """Set once an answer waits for the gate."""

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:8]}"'


@contextmanager
def serving(web: Web) -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.requests.append(dict(self.headers.items()))
            if web.gate is not None:
                web.waiting.set()
                web.gate.wait(10)
            start = self._start()
            body = web.content[start:]
            self.send_response(206 if start else web.status)
            self.send_header("Content-Type", web.type)
            if start:
                total = len(web.content)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            if web.length:
                self.send_header("Content-Length", str(len(body)))
            if web.etag:
                self.send_header("ETag", web.tag)
            self.end_headers()
            if web.cuts:
                body = body[: web.cuts.pop(0)]
            self.wfile.write(body)

        def _start(self) -> int:
            asked = self.headers.get("Range", "")
            same = not web.ask_if or self.headers.get("If-Range", web.tag) == web.tag
            return int(asked[6:-1]) if asked and web.ranges and same else 0

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_port}/files/some.bin"
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
