"""Checks the architecture: imports run downwards only, and each driver is imported in the one place that needs it.

    python tools/check_imports.py

The table below is docs/architecture.md as data. A part may import the parts named beside it, and itself.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "agentkeep"

WAIST = {"errors", "ids", "predicates", "waist", "keys", "codec", "resolve"}
STORE = WAIST | {"layers", "blobs", "records", "schema", "pages", "connection", "reindex", "urls", "store"}

MAY: dict[str, set[str]] = {
    "errors": set(),
    "ids": set(),
    "predicates": {"errors"},
    "waist": {"errors", "predicates"},
    "keys": {"errors", "waist"},
    "codec": {"errors"},
    "resolve": {"errors", "waist", "keys"},
    "urls": {"errors", "ids", "waist"},
    "layers": WAIST,
    "engines": WAIST | {"urls"},
    "blobs": WAIST,
    "records": WAIST,
    "schema": WAIST,
    "pages": {"errors"},
    "connection": WAIST | {"blobs", "layers", "records", "schema"},
    "reindex": WAIST | {"blobs", "connection", "layers", "records", "schema"},
    "store": STORE | {"features"},
    "features": STORE,
    "bridge": {"errors", "pages"},
    "sync": STORE | {"bridge", "features"},
    "transfer": STORE | {"features"},
    "cli": STORE | {"features", "transfer", "testing", "sync", ""},
    "testing": STORE | {"engines", "features", ""},
    "__main__": {"cli"},
    "": {"errors", "features", "pages", "records", "store"},
}

DRIVERS: dict[str, set[str]] = {
    "apsw": {"engines"},
    "asyncpg": {"engines"},
    "opentelemetry": {"layers"},
    "click": {"cli"},
    "rich": {"cli"},
    "pytest": {"testing"},
    "pytest_asyncio": {"testing"},
    "hypothesis": {"testing"},
    "msgspec": set(MAY),
}


def part_of(path: Path) -> str:
    """The part of the package a file belongs to; "" is the package's own __init__."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted module, whether it is ours) of each import in a file."""
    package = ("agentkeep", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, alias.name.split(".")[0] == "agentkeep"
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
            ours = module.split(".")[0] == "agentkeep"
            if module == "agentkeep":
                for alias in node.names:
                    known = (PACKAGE / alias.name).is_dir() or (PACKAGE / f"{alias.name}.py").exists()
                    yield node.lineno, f"agentkeep.{alias.name}" if known else "agentkeep", True
            else:
                yield node.lineno, module, ours


def wrongs() -> Iterator[str]:
    """A sentence for each import that goes upwards or takes a driver where it does not belong."""
    for path in sorted(PACKAGE.rglob("*.py")):
        part = part_of(path)
        where = path.relative_to(PACKAGE.parent.parent)
        if part not in MAY:
            yield f"{where}: the part {part!r} is not in the table of tools/check_imports.py"
            continue
        for line, module, ours in imports(path):
            if ours:
                names = module.split(".")
                target = names[1] if len(names) > 1 else ""
                if target != part and target not in MAY[part]:
                    yield f"{where}:{line}: {part or 'agentkeep'} imports {target or 'agentkeep'}"
            else:
                root = module.split(".")[0]
                if root in DRIVERS and part not in DRIVERS[root]:
                    yield f"{where}:{line}: {root} is imported in {part or 'agentkeep'}"
                elif root not in DRIVERS and root not in sys.stdlib_module_names:
                    yield f"{where}:{line}: {root} is not a known dependency"


def main() -> int:
    """Print what is wrong."""
    found = list(wrongs())
    print("\n".join(found) if found else "imports run downwards")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
