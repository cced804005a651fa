"""A small HTTP server that keeps dashboards and folders as Grafana documents that it does, and fails when it is told to.

https://grafana.com/docs/grafana/latest/developers/http_api/dashboard/, .../folder/, .../folder_dashboard_search/
"""

import json
import ssl
import tempfile
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from local.timescaledb.tls import Identity

TOKEN = "glsa_0123456789abcdef"


class GrafanaServer:
    """On a free port; `with` starts and stops it."""

    def __init__(self, identity: Identity | None = None) -> None:
        self.dashboards: dict[str, dict[str, Any]] = {}
        self.folders: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: deque[tuple[str, int, dict[str, Any] | None]] = deque()
        """For the next request of that method: the status, and its body; status 0 stores, and breaks the connection."""
        server = self

        class Handler(_Handler):
            grafana = server

        self._http = _Server(("127.0.0.1", 0), Handler)
        if identity is not None:
            self._http.socket = _context(identity).wrap_socket(
                self._http.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self.url = f"{'https' if identity else 'http'}://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "GrafanaServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def change(self, uid: str, **members: Any) -> None:
        """What somebody does in Grafana's own editor."""
        held = self.dashboards[uid]
        held["dashboard"] |= members | {"version": held["dashboard"]["version"] + 1}
        held["by"] = "carol"

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON."""
        match method, path.split("/")[2:]:
            case "GET", ["folders"]:
                return 200, [{"uid": uid, "title": title} for uid, title in self.folders.items()]
            case "GET", ["search"]:
                wanted = query["folderUIDs"][0]
                return 200, [{"uid": uid} for uid, held in self.dashboards.items() if held["folder"] == wanted]
            case "GET", ["dashboards", "uid", uid] if uid in self.dashboards:
                held = self.dashboards[uid]
                meta = {"folderUid": held["folder"], "updatedBy": held["by"], "updated": "2026-11-21T09:00:00Z"}
                return 200, {"dashboard": held["dashboard"], "meta": meta}
            case "POST", ["folders"]:
                return self._make_folder(body)
            case "POST", ["dashboards", "db"]:
                return self._save(body)
        return 404, {"message": "Not found"}

    def _make_folder(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["uid"] in self.folders:
            return 412, {"message": "a folder with that uid exists", "status": "name-exists"}
        self.folders[body["uid"]] = body["title"]
        return 200, {"uid": body["uid"], "title": body["title"]}

    def _save(self, body: dict[str, Any]) -> tuple[int, Any]:
        wanted = dict(body["dashboard"])
        uid = wanted["uid"]
        held = self.dashboards.get(uid)
        if held is not None and not body["overwrite"] and wanted["version"] != held["dashboard"]["version"]:
            message = "The dashboard has been changed by someone else"
            return 412, {"message": message, "status": "version-mismatch"}
        number = held["dashboard"]["id"] if held else len(self.dashboards) + 1
        version = held["dashboard"]["version"] + 1 if held else 1
        stored = json.loads(_as_go(wanted)) | {"id": number, "version": version}
        self.dashboards[uid] = {"dashboard": stored, "folder": body["folderUid"], "by": "sa-fleet"}
        return 200, {"id": number, "uid": uid, "url": f"/d/{uid}/x", "status": "success", "version": version}


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not trust us hangs up: nothing to report."""


def _context(identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(identity.server_certificate + identity.server_key)
        file.flush()
        context.load_cert_chain(file.name)
    return context


class _Handler(BaseHTTPRequestHandler):
    grafana: GrafanaServer

    def do_GET(self) -> None:
        self._respond({})

    def do_POST(self) -> None:
        self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _respond(self, body: dict[str, Any]) -> None:
        address = urlsplit(self.path)
        self.grafana.requests.append((self.command, address.path))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._send(401, {"message": "Invalid API key"})
            return
        if self.grafana.faults and self.grafana.faults[0][0] == self.command:
            _, status, said = self.grafana.faults.popleft()
            if status:
                self._send(status, said)
                return
            self.grafana.answer(self.command, address.path, parse_qs(address.query), body)
            self.close_connection = True
            return
        self._send(*self.grafana.answer(self.command, address.path, parse_qs(address.query), body))

    def _send(self, status: int, said: Any) -> None:
        text = b"<html>" if said is None else _as_go(said).encode()
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "https://elsewhere.invalid/login")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


def _as_go(value: Any) -> str:
    """Go's encoding: whole numbers without a point, and <, > and & escaped."""

    def plain(each: Any) -> Any:
        if isinstance(each, dict):
            return {name: plain(member) for name, member in each.items()}
        if isinstance(each, list):
            return [plain(member) for member in each]
        return int(each) if isinstance(each, float) and each.is_integer() else each

    text = json.dumps(plain(value), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
