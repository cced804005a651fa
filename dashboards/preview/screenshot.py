"""The README's picture of a page that `fleet dashboards preview` wrote.

python -m dashboards.preview.screenshot .local/preview.html docs/images/overview.png [--dashboard UID] [--theme dark]
"""

import argparse
from pathlib import Path

from dashboards.preview import browser

_MAX_BYTES = 400_000


def main() -> None:
    """Takes the picture. Exits with one line when there is no Chromium, or the picture is too large for a README."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.preview.screenshot", description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--dashboard", default="iot-overview")
    parser.add_argument("--theme", default="light", choices=["light", "dark"])
    parser.add_argument("--height", type=int, default=1560, help="pixels")
    given = parser.parse_args()
    program = browser.chromium()
    if program is None:
        parser.error("no Chromium on the PATH: apt-get install chromium")
    if not given.page.is_file():
        parser.error(f"{given.page} is not there: write it with fleet dashboards preview")
    given.image.parent.mkdir(parents=True, exist_ok=True)
    given.image.unlink(missing_ok=True)
    address = browser.address(given.page, given.dashboard, given.theme)
    done = browser.run(
        program, address, [f"--screenshot={given.image.resolve()}", f"--window-size=1440,{given.height}"]
    )
    if not given.image.is_file():
        parser.error(f"{program} took no picture: {done.stderr.strip().splitlines()[-1:]}")
    if given.image.stat().st_size > _MAX_BYTES:
        parser.error(
            f"{given.image} has {given.image.stat().st_size:,} bytes, more than {_MAX_BYTES:,}: a smaller --height"
        )


if __name__ == "__main__":
    main()
