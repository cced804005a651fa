"""The generated parts of the documents are those of today's templates."""

import pytest

from ops.documents import DOCUMENTS
from ops.documents.regions import replaced
from ops.paths import ROOT


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_is_current(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    today = text
    for region, content in DOCUMENTS[name]().items():
        today = replaced(today, region, content)
    assert today == text, "run make docs"
