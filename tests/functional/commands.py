"""Commands of `fleet`, run in this process on a test's database."""

import json
from typing import Any

import psycopg
import pytest
import typer
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner, Result

from ops import target
from ops.errors import UserError


class Commands:
    """A Typer application, and what its commands print."""

    def __init__(self, app: typer.Typer) -> None:
        self._app = app

    def run(self, *arguments: str) -> Result:
        """However it ends."""
        return CliRunner().invoke(self._app, arguments)

    def ok(self, *arguments: str) -> str:
        """What a command prints that succeeds."""
        done = self.run(*arguments)
        assert done.exit_code == 0, f"{done.output} {done.exception!r}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.ok(*arguments, "--json"))

    def refused(self, *arguments: str) -> str:
        """The one line of a command that refuses."""
        done = self.run(*arguments)
        assert isinstance(done.exception, UserError), f"{done.output} {done.exception!r}"
        line = str(done.exception)
        assert "\n" not in line
        return line


def commands_use(monkeypatch: pytest.MonkeyPatch, dsn: str, **parameters: str) -> None:
    """Every environment's database is this one, with these libpq parameters of the session."""

    def database(_environment: str, *, application_name: str) -> psycopg.Connection:
        return psycopg.connect(make_conninfo(dsn, application_name=application_name, **parameters), autocommit=True)

    monkeypatch.setattr(target, "database", database)
