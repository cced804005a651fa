#!/usr/bin/env python3
"""A `systemctl` for tests: starts and stops what the unit files in $UNIT_FOLDER say, as systemd would.

Knows Type=notify by the state that PostgreSQL keeps in postmaster.pid. Timers are remembered, never run.
"""

import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

UNITS = Path(os.environ["UNIT_FOLDER"])
PATIENCE_SECONDS = 60.0


def option(unit: str, name: str) -> str:
    """The value of an option of a unit; each is given once."""
    lines = (UNITS / unit).read_text().splitlines()
    (value,) = [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]
    return value


def main_pid_file(command: list[str]) -> Path:
    return Path(command[command.index("-D") + 1]) / "postmaster.pid"


def start(unit: str) -> None:
    if unit.endswith(".timer"):
        (UNITS / f"{unit}.active").touch()
        return
    command = option(unit, "ExecStart").split()
    pid_file = main_pid_file(command)
    if pid_file.exists():
        return
    as_user: list[str] = []
    if os.getuid() == 0:
        account = pwd.getpwnam(option(unit, "User"))
        as_user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", "--"]
    with (UNITS / f"{unit}.journal").open("ab") as journal:
        server = subprocess.Popen(
            [*as_user, *command], cwd="/", env={"PATH": os.defpath}, stdin=subprocess.DEVNULL,
            stdout=journal, stderr=journal, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_ready(pid_file):
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"Job for {unit} failed")
        time.sleep(0.05)


def is_ready(pid_file: Path) -> bool:
    try:
        return pid_file.read_text().splitlines()[7].strip() == "ready"
    except (OSError, IndexError):
        return False


def stop(unit: str) -> None:
    (UNITS / f"{unit}.active").unlink(missing_ok=True)
    if unit.endswith(".timer") or not (UNITS / unit).exists():
        return
    pid_file = main_pid_file(option(unit, "ExecStart").split())
    if not pid_file.exists():
        return
    os.kill(int(pid_file.read_text().split()[0]), getattr(signal, option(unit, "KillSignal")))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while pid_file.exists():
        if time.monotonic() > deadline:
            sys.exit(f"{unit} does not stop")
        time.sleep(0.05)


def main(verb: str, units: list[str]) -> None:
    for unit in units:
        if verb in ("stop", "restart"):
            stop(unit)
        if verb in ("start", "restart") or (verb == "enable" and "--now" in sys.argv):
            start(unit)
        if verb == "enable":
            (UNITS / f"{unit}.enabled").touch()


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    if words[0] not in ("start", "stop", "restart", "enable", "daemon-reload"):
        sys.exit(f"systemctl {words[0]}: not known here")
    main(words[0], words[1:])
