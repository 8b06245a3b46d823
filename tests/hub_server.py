"""A server on the loopback that speaks the hub's protocol, as far as `from_pretrained` and `load_dataset` ask.

It serves the folders `<root>/models/<owner>/<name>` and `<root>/datasets/<owner>/<name>`, each at one commit, and can
be told to misbehave as networks do.
"""

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

TOKEN = "hf_loopback"


@dataclass
class Hub:
    """What is served, and how.

    Attributes:
        private: Repositories that ask for the token, as `owner/name`.
        cut: Files whose first answer ends after half of their bytes, by name.
        slow: Repositories whose answers wait a third of a second.
        dying: Repositories for which the connection is closed without an answer.
        requests: Method and path of each request, and its Range.
    """

    root: Path
    private: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)
    dying: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    endpoint: str = ""

    def commit(self, kind: str, name: str) -> str:
        """The only revision that there is, under its hash and as `main`."""
        folder = self.root / kind / name
        digest = hashlib.sha1()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
        return digest.hexdigest()


@contextmanager
def serving(hub: Hub):
    """Serve until the block ends; `hub.endpoint` is what HF_ENDPOINT has to be."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *arguments):
        """Keep the test's output clean."""

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = self._parts()
        if parts[:1] == ["api"] and parts[4:5] == ["paths-info"]:
            asked = json.loads(body) if body[:1] == b"{" else parse_qs(body.decode())
            paths = asked.get("paths", [])
            entries = self._entries(self.hub.root / parts[1] / parts[2] / parts[3])
            wanted = [paths] if isinstance(paths, str) else paths
            return self._json([entry for entry in entries if entry["path"] in wanted])
        return self._json({})

    def do_GET(self):
        self.hub.requests.append((self.command, self.path, self.headers.get("Range", "")))
        parts = self._parts()
        if self._misbehaves("/".join(parts)):
            return None
        if parts[:1] == ["api"] and len(parts) >= 4:
            return self._api(parts[1], "/".join(parts[2:4]), parts[4:])
        kind = "datasets" if parts[:1] == ["datasets"] else "models"
        parts = parts[1:] if kind == "datasets" else parts
        if parts[2:3] == ["resolve"] and len(parts) >= 5:
            return self._resolve(kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self._miss("RepoNotFound")

    def _misbehaves(self, path):
        """Whether the connection is closed without an answer."""
        if any(name in path for name in self.hub.slow):
            time.sleep(0.3)
        self.close_connection |= any(name in path for name in self.hub.dying)
        return any(name in path for name in self.hub.dying)

    def _parts(self):
        return [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]

    def _refused(self, kind, name, revision):
        """Whether a repository is not for this client, not there, or has no such revision; then it is answered."""
        is_known = (self.hub.root / kind / name).is_dir()
        if name in self.hub.private and TOKEN not in self.headers.get("Authorization", ""):
            self._json({"error": "Access is restricted"}, 401, {"X-Error-Code": "GatedRepo"})
        elif not is_known:
            # The hub does not tell strangers what there is: without a token it answers 401.
            self._json({"error": "Repository not found"}, 401, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", self.hub.commit(kind, name)):
            self._miss("RevisionNotFound")
        else:
            return False
        return True

    def _api(self, kind, name, rest):
        revision = rest[1] if len(rest) > 1 and rest[0] in ("revision", "tree") else "main"
        if self._refused(kind, name, revision):
            return None
        folder = self.hub.root / kind / name
        if not rest or rest[0] == "revision":
            siblings = [{"rfilename": entry["path"]} for entry in self._entries(folder)]
            facts = {"id": name, "sha": self.hub.commit(kind, name), "siblings": siblings, "tags": [], "gated": False}
            return self._json(facts | {"private": False, "disabled": False, "downloads": 0, "likes": 0})
        if rest[0] == "tree":
            return self._tree(folder, "/".join(rest[2:]))
        if rest[0] == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.hub.commit(kind, name)}
            return self._json({"branches": [branch], "tags": [], "converts": []})
        return self._miss("EntryNotFound")

    def _tree(self, folder, below):
        prefix = f"{below}/" if below else ""
        entries = [entry for entry in self._entries(folder) if entry["path"].startswith(prefix)]
        if below and not entries:
            return self._miss("EntryNotFound")
        query = parse_qs(urlparse(self.path).query)
        if query.get("recursive", ["false"])[0].lower() in ("true", "1"):
            return self._json(entries)
        shown = {}
        for entry in entries:
            first, is_deeper, _ = entry["path"].removeprefix(prefix).partition("/")
            directory = {"type": "directory", "path": prefix + first, "size": 0, "oid": "0" * 40}
            shown[first] = directory if is_deeper else entry
        return self._json(list(shown.values()))

    def _resolve(self, kind, name, revision, path):
        if self._refused(kind, name, revision):
            return None
        file, commit = self.hub.root / kind / name / path, {"X-Repo-Commit": self.hub.commit(kind, name)}
        if not file.is_file():
            return self._json({"error": "Entry not found"}, 404, commit | {"X-Error-Code": "EntryNotFound"})
        data = file.read_bytes()
        headers = commit | {"ETag": f'"{_blob(file)}"', "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").partition("-")[0] or 0) if asked.startswith("bytes=") else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        is_cut = self.command == "GET" and file.name in self.hub.cut
        self._answer(206 if start else 200, data[start:], headers, cut=is_cut)
        return None

    def _entries(self, folder):
        return [
            {
                "type": "file",
                "path": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "oid": _blob(path),
            }
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]

    def _miss(self, code):
        self._json({"error": code}, 404, {"X-Error-Code": code, "X-Error-Message": code})

    def _json(self, content, status=200, headers=None):
        self._answer(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _answer(self, status, data, headers, *, cut=False):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut:  # once: the next request gets all that is left
            self.hub.cut.discard(Path(urlparse(self.path).path).name)
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)


def _blob(path):
    return hashlib.sha1(b"blob %d\0" % path.stat().st_size + path.read_bytes()).hexdigest()
