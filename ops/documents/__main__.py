"""`make docs`: writes every generated part of the documents again."""

import sys

from ops.documents import DOCUMENTS
from ops.documents.regions import write
from ops.paths import ROOT


def main() -> None:
    """Writes them, and says which files changed."""
    for name, regions in DOCUMENTS.items():
        sys.stdout.write(f"{name}: {'changed' if write(ROOT / name, regions()) else 'current'}\n")


if __name__ == "__main__":
    main()
