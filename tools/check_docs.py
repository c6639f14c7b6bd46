"""Checks that the documentation is complete: public names, modules, pages and links.

    python tools/check_docs.py

Every module opens with a docstring, every public class and function of a public module has one (of a test, the name is
enough), every name of `agentkeep.__all__` is on a page of docs/, every page is reached from the README or
docs/README.md, and every relative link leads somewhere.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "agentkeep"
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")


def undocumented() -> Iterator[str]:
    """Modules, classes and functions without a docstring."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        where = path.relative_to(ROOT)
        if not ast.get_docstring(tree):
            yield f"{where}: no docstring"
        if path.name == "__init__.py" or not path.name.startswith("_"):
            yield from (f"{where}:{line}: {name} has no docstring" for line, name in _bare(tree.body, ""))


def _bare(body: list[ast.stmt], owner: str) -> Iterator[tuple[int, str]]:
    for node in body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith(
            ("_", "test_")
        ):
            continue
        if not ast.get_docstring(node):
            yield node.lineno, owner + node.name
        if isinstance(node, ast.ClassDef):
            yield from _bare(node.body, f"{node.name}.")


def unnamed() -> Iterator[str]:
    """Public names that no page speaks of."""
    pages = "\n".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            for name in ast.literal_eval(node.value):
                if not re.search(rf"\b{name}\b", pages):
                    yield f"docs: {name} is public and on no page"


def unreached() -> Iterator[str]:
    """Pages without a way to them, and links that lead nowhere."""
    reached: set[Path] = set()
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        for link in LINK.findall(page.read_text()):
            target = (page.parent / link).resolve()
            if not target.exists():
                yield f"{page.relative_to(ROOT)}: the link to {link} leads nowhere"
            reached.add(target)
    for page in pages[2:]:
        if page.resolve() not in reached:
            yield f"{page.relative_to(ROOT)}: no page links to it"


def main() -> int:
    """Print what is missing."""
    found = [*undocumented(), *unnamed(), *unreached()]
    print("\n".join(found) if found else "the documentation is complete")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
