"""Pages are found from the index, and their links lead somewhere."""

from __future__ import annotations

import ast
import re
from typing import Iterator

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


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules that are imported when the code runs, also in functions; not for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        yield from imports(node)


def test_imports_run_one_way():
    """Down the floors of docs/architecture.md, which names all folders and modules of the library."""
    table = (ROOT / "docs/architecture.md").read_text().partition("| floor |")[2].partition("\n\n")[0]
    floors = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    level = {name: -number for number, names in enumerate(floors) for name in names}
    library = ROOT / "sammo"
    assert level.keys() == {path.stem for path in library.iterdir() if path.stem[:2] != "__"}
    upwards = []
    for path in sorted(library.rglob("*.py")):
        own = path.relative_to(library).parts[0].removesuffix(".py")
        for module in imports(ast.parse(path.read_text(encoding="utf-8"))):
            package, _, name = module.partition(".")
            if package == "sammo" and name and own in level and level[name.split(".")[0]] > level[own]:
                upwards.append(f"{path} imports {module}")
    assert upwards == []
