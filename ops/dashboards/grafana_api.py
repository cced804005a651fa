"""Grafana's HTTP API, as much of it as moves dashboards: with a service account's token, over verified TLS.

https://grafana.com/docs/grafana/latest/developers/http_api/dashboard/
"""

import http.client
import ipaddress
import json
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from ops.errors import UserError

_ATTEMPTS = 4
_PAUSE_SECONDS = 0.5
_ANSWER_BYTES = 32 * 1024 * 1024
_PAGE = 1000


@dataclass(frozen=True)
class Held:
    """A dashboard as Grafana holds it."""

    dashboard: dict[str, Any]
    version: int
    folder_uid: str
    changed_by: str
    changed_at: str


class VersionConflictError(Exception):
    """Grafana holds another version than the one that was to be replaced."""


class _RefusedError(Exception):
    """An answer that is no success, and what Grafana said of it."""

    def __init__(self, status: int, message: str, kind: str) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token is for the address that was given, and for no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Grafana:
    """One Grafana. Every method raises UserError with one line for what its user can mend."""

    def __init__(
        self, url: str, token: str, *, timeout_seconds: float = 15, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.url = checked_url(url)
        self._token = token
        self._timeout_seconds = timeout_seconds
        self._pause = pause
        self._opener = urllib.request.build_opener(
            _NoRedirect(), urllib.request.HTTPSHandler(context=ssl.create_default_context())
        )

    def read(self, uid: str) -> Held | None:
        """A dashboard by its uid; None when there is none."""
        try:
            answer = self._call("GET", f"/api/dashboards/uid/{quote(uid, safe='')}")
        except _RefusedError as refused:
            if refused.status == http.HTTPStatus.NOT_FOUND:
                return None
            raise self._line(refused) from None
        dashboard, meta = self._member(answer, "dashboard"), self._member(answer, "meta")
        return Held(
            dashboard=dashboard,
            version=int(dashboard.get("version", 0)),
            folder_uid=str(meta.get("folderUid", "")),
            changed_by=str(meta.get("updatedBy") or "somebody"),
            changed_at=str(meta.get("updated") or "an unknown time"),
        )

    def save(self, dashboard: dict[str, Any], *, version: int, folder_uid: str, overwrite: bool) -> str:
        """Stores a dashboard in place of `version` (0: of none), whatever is there with `overwrite`; its address.

        Raises VersionConflictError when another version is there.
        """
        body = {
            "dashboard": dashboard | {"id": None, "version": version},
            "folderUid": folder_uid,
            "overwrite": overwrite,
            "message": "fleet dashboards import",
        }
        try:
            answer = self._call("POST", "/api/dashboards/db", body)
        except _RefusedError as refused:
            if refused.status == http.HTTPStatus.PRECONDITION_FAILED and refused.kind != "plugin-dashboard":
                raise VersionConflictError(refused.message) from None
            raise self._line(refused) from None
        if not isinstance(answer, dict):
            raise self._strange()
        return self.url + "/" + str(answer.get("url", "")).lstrip("/")

    def folder(self, title: str) -> str | None:
        """The uid of the folder at the top with this title; None when there is none."""
        try:
            answer = self._call("GET", f"/api/folders?{urlencode({'limit': _PAGE})}")
        except _RefusedError as refused:
            raise self._line(refused) from None
        if not isinstance(answer, list):
            raise self._strange()
        return next((str(each["uid"]) for each in answer if each.get("title") == title), None)

    def make_folder(self, title: str) -> str:
        """Makes a folder at the top; its uid, which is made of the title, so that a second attempt makes no second one."""
        uid = re.sub(r"[^A-Za-z0-9_-]+", "-", title).strip("-").lower()[:40] or "folder"
        try:
            self._call("POST", "/api/folders", {"title": title, "uid": uid})
        except _RefusedError as refused:
            if refused.status not in (http.HTTPStatus.CONFLICT, http.HTTPStatus.PRECONDITION_FAILED):
                raise self._line(refused) from None
            found = self.folder(title)
            if found is None:
                raise self._line(refused) from None
            return found
        return uid

    def uids(self, folder_uid: str) -> list[str]:
        """The dashboards of a folder, in the order of their uids."""
        query = urlencode({"type": "dash-db", "folderUIDs": folder_uid, "limit": _PAGE})
        try:
            answer = self._call("GET", f"/api/search?{query}")
        except _RefusedError as refused:
            raise self._line(refused) from None
        if not isinstance(answer, list):
            raise self._strange()
        return sorted(str(each["uid"]) for each in answer)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """An answer's JSON. What may pass by itself (5xx, 429, a broken connection) is tried again, later and later."""
        for attempt in range(1, _ATTEMPTS + 1):
            last = attempt == _ATTEMPTS
            try:
                return self._once(method, path, body)
            except _RefusedError as refused:
                if last or not (refused.status >= 500 or refused.status == http.HTTPStatus.TOO_MANY_REQUESTS):
                    raise
            except urllib.error.URLError as error:
                if isinstance(error.reason, ssl.SSLCertVerificationError):
                    raise UserError(
                        f"the certificate of {self.url} is not trusted ({error.reason.verify_message}): "
                        "name its authority's PEM file in SSL_CERT_FILE"
                    ) from None
                if last or isinstance(error.reason, ConnectionRefusedError | socket.gaierror):
                    raise self._unreachable(error.reason) from None
            except (OSError, http.client.HTTPException) as error:
                if last:
                    raise self._unreachable(error) from None
            self._pause(_PAUSE_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        request = urllib.request.Request(  # noqa: S310  checked_url lets http and https through only
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self._token}",
                "Accept": "application/json",
                "Content-Type": "application/json",
            },
        )
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as answer:
                text = answer.read(_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error.code, error.read(_ANSWER_BYTES)) from None
        try:
            return json.loads(text)
        except ValueError:
            raise self._strange() from None

    def _member(self, answer: Any, name: str) -> dict[str, Any]:
        member = answer.get(name) if isinstance(answer, dict) else None
        if not isinstance(member, dict):
            raise self._strange()
        return member

    def _strange(self) -> UserError:
        return UserError(f"{self.url} does not answer as Grafana does: check --url (with its path, if it has one)")

    def _unreachable(self, reason: object) -> UserError:
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        return UserError(f"Grafana cannot be reached at {self.url} ({text}): check --url, and that it runs")

    def _line(self, refused: _RefusedError) -> UserError:
        said = f" ({refused.message})" if refused.message else ""
        if refused.status == http.HTTPStatus.UNAUTHORIZED:
            return UserError(f"Grafana at {self.url} does not know the token{said}: make one for a service account")
        if refused.status == http.HTTPStatus.FORBIDDEN:
            return UserError(
                f"the token may not do that at {self.url}{said}: its service account needs the role Editor"
            )
        if 300 <= refused.status < 400:
            return UserError(f"{self.url} leads elsewhere: give as --url where Grafana itself answers")
        return UserError(f"Grafana at {self.url} answered {refused.status}{said}")


def _refused(status: int, text: bytes) -> _RefusedError:
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    said = said if isinstance(said, dict) else {}
    message = " ".join(str(said.get("message", "")).split())[:200]
    return _RefusedError(status, message, str(said.get("status", "")))


def checked_url(url: str) -> str:
    """Grafana's address without a slash at its end. Raises UserError for one over which a token must not go."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UserError(f"--url {_shown(url)}: give Grafana's address, such as https://grafana.example.com")
    if parts.username is not None or parts.password is not None:
        raise UserError(f"--url {_shown(url)}: no password belongs there; the token comes from --token-file")
    if parts.scheme == "http" and not _is_here(parts.hostname):
        raise UserError(f"--url {url}: the token would go over the network in the clear; use https")
    return url.rstrip("/")


def _shown(url: str) -> str:
    """Without what stands before an @: that may be a password."""
    scheme, separator, rest = url.rpartition("@")
    return f"...@{rest}" if separator and scheme else url


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
