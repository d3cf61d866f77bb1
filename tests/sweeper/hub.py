"""A stand-in for the Hugging Face hub: the two requests that a download makes, over real HTTP."""

from __future__ import annotations

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves `files`, by path in the repository, as HEAD and GET of /datasets/REPOSITORY/resolve/main/PATH."""

    def __init__(self, repository: str, files: dict[str, bytes]) -> None:
        self.files = files
        self.stall_after: int | None = None
        """Bytes of an answer after which the server says no more, for a download to be killed at."""
        self.break_at: dict[str, int] = {}
        """Bytes of a file after which each answer ends before its time."""
        self.damaged: set[str] = set()
        """Files whose last byte arrives wrong."""
        self.gets: list[tuple[str, str]] = []
        """Path and Range header of each GET, in order."""
        hub = self
        prefix = f"/datasets/{repository}/resolve/main/"

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer()

            def do_GET(self) -> None:
                self.answer()

            def answer(self) -> None:
                path = self.path.removeprefix(prefix)
                content = hub.files.get(path) if self.path.startswith(prefix) else None
                if content is None:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                begin = 0
                if self.command == "GET":
                    hub.gets.append((path, self.headers.get("Range", "")))
                    begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
                self.send_response(206 if begin else 200)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", str(len(content) - begin))
                if begin:
                    self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                if self.command == "GET":
                    if path in hub.damaged:
                        content = content[:-1] + bytes([content[-1] ^ 1])
                    self.send(content[begin:], hub.break_at.get(path))

            def send(self, content: bytes, break_at: int | None) -> None:
                if break_at is not None and len(content) > break_at:
                    self.wfile.write(content[:break_at])
                    self.close_connection = True
                    return
                if hub.stall_after is None or len(content) <= hub.stall_after:
                    self.wfile.write(content)
                    return
                self.wfile.write(content[: hub.stall_after])
                while hub.stall_after is not None:
                    time.sleep(0.01)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.stall_after = None
        self._server.shutdown()
        self._server.server_close()
