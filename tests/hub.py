"""A stand-in of the Hugging Face hub on this machine: the calls that uploading and downloading a model make."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_a_token_that_must_never_be_printed"


class Hub:
    """Repositories of the hub.

    Attributes:
        url: for HF_ENDPOINT.
        commits: OWNER/NAME -> commits, oldest first, each as identifier and path -> content.
        private: repositories that were created as private.
        requests: method and path of each request.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: set[str] = set()
        self.large: dict[str, bytes] = {}  # uploaded LFS objects by SHA-256
        self.requests: list[tuple[str, str]] = []

    def commit(self, repository: str, lines: list[dict]) -> str:
        files = dict(self.commits[repository][-1][1]) if self.commits[repository] else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        digest = hashlib.sha1(json.dumps({name: base64.b64encode(data).decode() for name, data in files.items()}).encode()).hexdigest()
        self.commits[repository].append((digest, files))
        return digest

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.commits.get(repository, [])
        return next((commit for commit in reversed(commits) if revision in ("main", commit[0])), None)


@contextmanager
def hub() -> Iterator[Hub]:
    """Run a hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, content: object = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        hub, path = self._request()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/validate-yaml":
            self.reply(200, {"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply(401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials")
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            repository = f"{wanted['organization']}/{wanted['name']}"
            existed = repository in hub.commits
            hub.commits.setdefault(repository, [])
            if wanted.get("visibility") == "private":
                hub.private.add(repository)
            self.reply(409 if existed else 200, {"url": f"{hub.url}/{repository}", "id": repository})
        elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/preupload/main", path):
            modes = {True: "lfs", False: "regular"}
            files = [file["path"] for file in json.loads(body)["files"]]
            kinds = [{"path": each, "uploadMode": modes[each.endswith(".safetensors")], "shouldIgnore": False} for each in files]
            self.reply(200, {"files": kinds})
        elif re.fullmatch(r"/[\w.-]+/[\w.-]+\.git/info/lfs/objects/batch", path):
            objects = [
                {"oid": each["oid"], "size": each["size"], "actions": {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self.reply(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/main", path):
            commit = hub.commit(match[1], [json.loads(line) for line in body.splitlines()])
            self.reply(200, {"success": True, "commitOid": commit, "commitUrl": f"{hub.url}/{match[1]}/commit/{commit}"})
        else:
            self.reply(404, {"error": f"no {path}"})

    def do_PUT(self) -> None:
        hub, path = self._request()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        digest = hashlib.sha256(content).hexdigest()
        if path == f"/lfs/{digest}":
            hub.large[digest] = content
        self.reply(200 if digest in hub.large else 400)

    def do_GET(self) -> None:
        hub, path = self._request()
        place = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(revision|tree)/([\w.-]+)", path)
        file = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", path)
        repository, revision = (place[1], place[3]) if place else (file[1], file[2]) if file else ("", "")
        found = hub.find(repository, revision)
        if found is None:
            code = "RevisionNotFound" if repository in hub.commits else "RepoNotFound"
            self.reply(404, {"error": code}, X_Error_Code=code)
        elif place and place[2] == "revision":
            siblings = [{"rfilename": name} for name in found[1]]
            self.reply(200, {"id": repository, "modelId": repository, "sha": found[0], "siblings": siblings, "tags": [], "private": False})
        elif place:
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()} for name, data in found[1].items()
            ]
            self.reply(200, tree)
        elif file and file[3] in found[1]:
            data = found[1][file[3]]
            self.reply(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=found[0])
        else:
            self.reply(404, {"error": "EntryNotFound"}, X_Error_Code="EntryNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _request(self) -> tuple[Hub, str]:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path))
        return hub, path
