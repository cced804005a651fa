"""A Chromium on the PATH, to look at the page with: for the tests and for the README's picture; nothing else needs one."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_SECONDS = 60


def chromium() -> str | None:
    """The browser's path, None where there is none."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def run(program: str, address: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Opens an address without a window and with a profile of its own; the page has three seconds of its own time."""
    with tempfile.TemporaryDirectory(prefix="fleet-browser-") as profile:
        return subprocess.run(
            [
                program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
                "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
                f"--user-data-dir={profile}", "--virtual-time-budget=3000", *arguments, address,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )  # fmt: skip


def address(page: Path, dashboard: str, theme: str) -> str:
    """Of a dashboard in the page."""
    return f"{page.resolve().as_uri()}#d={dashboard}&theme={theme}"
