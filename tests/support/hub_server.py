"""A Hub on loopback for the real huggingface_hub client: repositories in memory, faults on request.

It speaks the part of the Hub's protocol that models need: whoami, create, preupload, LFS upload,
commit (with parent commit and pull requests), info, tree, list with filters, resolve with ETag and
commit, and the 404 codes.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKENS = {"hf_alice": ("alice", True), "hf_bob": ("bob", True), "hf_reader": ("alice", False)}
WHEN = "2026-01-02T03:04:05.000Z"


def sha1(*parts: bytes) -> str:
    return hashlib.sha1(b"\0".join(parts)).hexdigest()


@dataclass
class Repo:
    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    pull_requests: int = 0

    def commit(self, files: dict[str, bytes], ref: str = "main", message: str = "") -> str:
        content = [name.encode() + b"\0" + data for name, data in sorted(files.items())]
        commit = sha1(self.name.encode(), str(len(self.commits)).encode(), *content)
        self.commits[commit], self.refs[ref] = files, commit
        self.messages.append(message)
        return commit

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]]

    def card(self) -> dict[str, Any]:
        found = re.match(
            r"---\n(.*?)\n---",
            self.files.get("README.md", b"").decode("utf-8", "replace"),
            re.DOTALL,
        )
        data = yaml.safe_load(found[1]) if found else None
        return data if isinstance(data, dict) else {}

    def tags(self) -> list[str]:
        card = self.card()
        base = card.get("base_model") or []
        bases = [base] if isinstance(base, str) else base
        return [
            *(card.get("tags") or []),
            *(f"base_model:{one}" for one in bases),
            str(card.get("library_name")),
        ]

    def summary(self) -> dict[str, Any]:
        about = {
            "_id": self.name,
            "id": self.name,
            "modelId": self.name,
            "private": self.private,
            "likes": 3,
        }
        about |= {
            "tags": self.tags(),
            "cardData": self.card(),
            "downloads": 7,
            "lastModified": WHEN,
            "createdAt": WHEN,
        }
        return {**about, "author": self.name.split("/")[0]}


@dataclass
class Fault:
    """A fault for the next `times` requests whose "METHOD /path" matches.

    It is a status, or a connection that fails.
    """

    pattern: str
    # a status; "drop": no answer; "after": done, but no answer; "half": half an answer; "slow"
    kind: int | str
    times: int = 1


class Hub(ThreadingHTTPServer):
    """`with Hub() as hub:` serves at `hub.url`; `hub.requests` lists the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.lfs = False  # whether binary files are uploaded and downloaded by way of LFS
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.RLock()

    def __enter__(self) -> Hub:
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are part of the tests

    def add(self, name: str, files: dict[str, bytes] | None = None, **options: bool) -> Repo:
        repo = self.repos[name] = Repo(name, **options)
        repo.commit({".gitattributes": b"", **(files or {})})
        return repo

    def fail(self, pattern: str, kind: int | str, times: int = 1) -> None:
        self.faults.append(Fault(pattern, kind, times))

    def fault(self, line: str) -> int | str | None:
        for fault in self.faults:
            if fault.times and re.search(fault.pattern, line):
                fault.times -= 1
                return fault.kind
        return None


class Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message or code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    disable_nagle_algorithm = True
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self) -> None:
        parts = urlsplit(self.path)
        self.parts, self.query = unquote(parts.path), parse_qs(parts.query)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        line = f"{self.command} {self.parts}"
        with self.server.lock:
            self.server.requests.append(line)
            kind = self.server.fault(line)
        if kind == "slow":
            threading.Event().wait(0.3)
        if kind == "drop":
            return self.hang_up()
        if isinstance(kind, int):
            return self.reply(kind, {"error": "out of order"}, {"X-Error-Message": "out of order"})
        try:
            with self.server.lock:
                status, content, headers = self.route()
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            status, content = refusal.status, {"error": refusal.message}
        if kind == "after":
            return self.hang_up()
        self.reply(status, content, headers, half=kind == "half")

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def reply(
        self, status: int, content: Any, headers: dict[str, str] | None = None, half: bool = False
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for key, value in {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if half else data)
            if half:
                self.hang_up()

    def hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    # --- what is asked

    def route(self) -> tuple[int, Any, dict[str, str]]:
        path = self.parts
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": self.user(), "orgs": []}, {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if path == "/api/repos/create":
            return self.create()
        if path == "/api/models":
            return self.list()
        if path.startswith("/lfs/"):
            return self.blob(path[5:])
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.lfs_batch(self.repo(found[1], write=True))
        # a Space is kept under "spaces/user/name"
        name = r"((?:spaces/)?[^/]+/[^/]+)"
        if found := re.fullmatch(
            rf"/api/{name}(?:/(revision|tree|preupload|commit)/(.+))?",
            path.replace("/api/models/", "/api/"),
        ):
            return self.api(found[1], found[2], found[3])
        if found := re.fullmatch(rf"/{name}/resolve/(refs/pr/\d+|[^/]+)/(.+)", path):
            return self.resolve(found[1], found[2], found[3])
        raise Refusal(404, "", f"no route {path}")

    def user(self, needed: bool = True, write: bool = False) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        if not token and needed:
            raise Refusal(401, "", "Invalid username or password.")
        name, may_write = TOKENS.get(token, (None, False))
        if write and not may_write:
            raise Refusal(403, "", "this token may only read")
        return name

    def repo(self, name: str, write: bool = False) -> Repo:
        user, repo = self.user(needed=write), self.server.repos.get(name)
        owner = user is not None and name.removeprefix("spaces/").startswith(f"{user}/")
        if repo is None or (repo.private and not owner):
            raise Refusal(404 if user else 401, "RepoNotFound", "Repository not found")
        if repo.gated and not owner:
            raise Refusal(
                403 if user else 401, "GatedRepo", "Access to this repository is restricted"
            )
        if write and self.query.get("create_pr") != ["1"]:
            self.user(write=True)
            if not owner:
                raise Refusal(403, "", f"you may not write to {name}")
        return repo

    def create(self) -> tuple[int, Any, dict[str, str]]:
        asked, user = json.loads(self.body), self.user(write=True)
        owner = asked.get("organization") or user
        space = asked.get("type") == "space"
        name = f"{'spaces/' * space}{owner}/{asked['name']}"
        if space and asked.get("sdk") != "static":
            raise Refusal(400, "", f"this server has no Spaces of sdk {asked.get('sdk')}")
        if owner != user:
            raise Refusal(403, "", f"you may not create repositories in {owner}")
        if name in self.server.repos:
            about = {
                "error": "You already created this model repo",
                "url": f"{self.server.url}/{name}",
            }
            return 409, about, {"X-Error-Message": about["error"]}
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.server.add(name, private=private)
        return 200, {"url": f"{self.server.url}/{name}", "name": name}, {}

    def list(self) -> tuple[int, Any, dict[str, str]]:
        user, wanted = self.user(needed=False), set(self.query.get("filter", []))
        author, text = self.query.get("author", [None])[0], self.query.get("search", [""])[0]
        found = [
            repo.summary()
            for name, repo in self.server.repos.items()
            if wanted <= set(repo.tags())
            and author in (None, name.split("/")[0])
            and text in name
            and (not repo.private or name.startswith(f"{user}/"))
        ]
        return 200, found[: int(self.query.get("limit", ["1000"])[0])], {}

    def api(self, name: str, verb: str | None, rest: str | None) -> tuple[int, Any, dict[str, str]]:
        repo = self.repo(name, write=verb in ("preupload", "commit"))
        revision = unquote(rest or "main")
        if verb == "tree":
            revision, _, folder = revision.partition("/")
            files = repo.commits[self.commit_of(repo, revision)]
            rows = [
                {"type": "file", "path": n, "size": len(d), "oid": sha1(d)}
                for n, d in files.items()
            ]
            if folder and not any(row["path"].startswith(f"{folder}/") for row in rows):
                raise Refusal(404, "EntryNotFound", "no such folder")
            return (
                200,
                [row for row in rows if not folder or row["path"].startswith(f"{folder}/")],
                {},
            )
        commit = self.commit_of(repo, revision)
        if verb == "preupload":
            return (
                200,
                {
                    "files": [
                        self.preupload(repo.commits[commit], f)
                        for f in json.loads(self.body)["files"]
                    ]
                },
                {},
            )
        if verb == "commit":
            return self.commit(repo, revision, commit)
        siblings = [{"rfilename": name} for name in repo.commits[commit]]
        return 200, {**repo.summary(), "sha": commit, "siblings": siblings}, {}

    def commit_of(self, repo: Repo, revision: str) -> str:
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def preupload(self, files: dict[str, bytes], file: dict[str, Any]) -> dict[str, Any]:
        name = file["path"]
        binary = self.server.lfs and name.endswith((".safetensors", ".png"))
        old = files.get(name)
        oid = None if old is None else (hashlib.sha256(old).hexdigest() if binary else git_oid(old))
        return {
            "path": name,
            "uploadMode": "lfs" if binary else "regular",
            "shouldIgnore": False,
            "oid": oid,
        }

    def lfs_batch(self, repo: Repo) -> tuple[int, Any, dict[str, str]]:
        objects = json.loads(self.body)["objects"]
        for one in objects:
            if one["oid"] not in self.server.blobs:
                one["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}
        return 200, {"transfer": "basic", "objects": objects}, {}

    def blob(self, oid: str) -> tuple[int, Any, dict[str, str]]:
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                raise Refusal(400, "", "the content is not that of the oid")
            self.server.blobs[oid] = self.body
            return 200, b"", {"ETag": f'"{oid}"'}
        return 200, self.server.blobs[oid], {"ETag": f'"{oid}"'}

    def commit(self, repo: Repo, revision: str, head: str) -> tuple[int, Any, dict[str, str]]:
        lines = [json.loads(line) for line in self.body.splitlines() if line]
        header = lines[0]["value"]
        if header.get("parentCommit", head) != head:
            raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[head])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        pull_request = None
        if self.query.get("create_pr") == ["1"]:
            repo.pull_requests += 1
            revision = f"refs/pr/{repo.pull_requests}"
            pull_request = f"{self.server.url}/{repo.name}/discussions/{repo.pull_requests}"
        oid = repo.commit(files, revision, header["summary"])
        url = f"{self.server.url}/{repo.name}/commit/{oid}"
        return (
            200,
            {"success": True, "commitOid": oid, "commitUrl": url, "pullRequestUrl": pull_request},
            {},
        )

    def resolve(self, name: str, revision: str, path: str) -> tuple[int, Any, dict[str, str]]:
        repo = self.repo(name)
        commit = self.commit_of(repo, revision)
        headers = {"X-Repo-Commit": commit}
        data = repo.commits[commit].get(path)
        if data is None:
            return 404, {"error": "Entry not found"}, {**headers, "X-Error-Code": "EntryNotFound"}
        if self.server.lfs and path.endswith((".safetensors", ".png")):
            oid = hashlib.sha256(data).hexdigest()
            self.server.blobs[oid] = data
            headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(data))}
            # another host, as the real one's
            return (
                302,
                b"",
                {
                    **headers,
                    "Location": f"{self.server.url}/lfs/{oid}".replace("127.0.0.1", "localhost"),
                },
            )
        return 200, data, {**headers, "ETag": f'"{git_oid(data)}"'}


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
