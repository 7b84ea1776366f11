"""A small hub on this machine: enough of its protocol for huggingface_hub to list and download a repository."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server gives, and what it was asked for."""

    repos: dict[str, dict[str, bytes]]
    """`org/repo`, and in it path -> content."""
    refuses: dict[str, tuple[int, str]] = field(default_factory=dict)
    """`org/repo`, and the status and error code that it answers with."""
    gated: set[str] = field(default_factory=set)
    """Repositories that show what they hold, and give none of it."""
    url: str = ""
    downloaded: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        match = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/]+)(?:/(?:revision|resolve)/([^/]+))?/?(.*)", path)
        assert match, path
        repo, revision, file = match[1], match[2] or "main", match[3]
        if repo in self.refuses:
            status, code = self.refuses[repo]
            return status, {"X-Error-Code": code} if code else {}, b"no"
        if repo not in self.repos:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"no"
        if revision not in ("main", "v1", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"no"
        if path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in self.repos[repo]]
            return 200, {}, json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()
        if repo in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"no"
        content = self.repos[repo][file]
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(content).hexdigest()}"'}, content


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the server, and set `hub.url`, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                if "/resolve/" in self.path:  # noted before it is sent: the client does not wait for what comes after
                    hub.downloaded.append(self.path.split("/resolve/")[1].partition("/")[2])
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
