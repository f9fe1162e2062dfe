"""Pages are found from the index, and their links lead somewhere."""

from __future__ import annotations

import re

import pytest
from fixtures.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES += [*sorted(ROOT.glob("egs/*/ASR/*.md")), ROOT / "benchmarks/README.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_the_index_names_all_pages():
    index = set(LINK.findall((ROOT / "docs/README.md").read_text(encoding="utf-8")))
    assert [page.name for page in ROOT.glob("docs/*.md") if page.name not in index | {"README.md"}] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    files = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    assert [name for name in files if not (page.parent / name).exists()] == []
