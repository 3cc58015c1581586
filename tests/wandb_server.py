"""A W&B server on loopback that behaves as a test tells it, from helpful to dead."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUCKET = {
    "id": "1",
    "name": "run",
    "displayName": "run",
    "description": "",
    "config": "{}",
    "sweepName": None,
    "historyLineCount": 0,
    "project": {"id": "2", "name": "project", "entity": {"id": "3", "name": "team"}},
}


@dataclass
class Server:
    """`status` of every answer, 200 for a server at work; `delay` seconds before each."""

    status: int = 200
    delay: float = 0.0
    url: str = ""
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    """Paths and bodies of what was asked."""

    def bodies(self, path: str) -> str:
        """Everything that was sent to paths with this in them."""
        return "\n".join(body.decode(errors="replace") for p, body in self.requests if path in p)

    def answer(self, body: bytes) -> dict[str, Any]:
        """What a server at work says to a question that an upload needs answered."""
        if b"UpsertBucket" in body:
            return {"data": {"upsertBucket": {"bucket": BUCKET, "inserted": True}}}
        if b"RunResumeStatus" in body:
            return {"data": {"model": None}}
        if b"CreateRunFiles" in body:
            names = json.loads(body)["variables"]["files"]
            files = [{"name": name, "uploadUrl": f"{self.url}/put/{name}"} for name in names]
            return {"data": {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}}
        if b"query" in body:
            return {"errors": [{"message": "not known here"}]}
        return {}


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.requests.append((self.path, body))
            time.sleep(server.delay)
            content = json.dumps(server.answer(body) if server.status == 200 else {}).encode()
            self.send_response(server.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = answer  # noqa: N815

        def handle(self) -> None:
            with suppress(OSError):  # whoever asked has gone
                super().handle()

        def log_message(self, *_: object) -> None: ...

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    listening.block_on_close = False  # an answer may be due in an hour
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{listening.server_port}"
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
