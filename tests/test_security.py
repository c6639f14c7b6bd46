"""What the package must not contain: ways to run what was stored, and statements built from data."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentkeep

PACKAGE = Path(agentkeep.__file__).parent
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "imp"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
FORBIDDEN_ATTRIBUTES = {"__reduce_ex__", "__subclasses__", "__globals__", "__builtins__"}
# Imports by name: each of these names comes from a table or an entry point, never from stored data.
IMPORTS_BY_NAME = {"urls.py", "testing/plugin.py"}


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


MODULES = dict(_modules())


def _violations(tree: ast.Module, by_name: bool = False) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                yield from (f"imports {one.name}" for one in names if one.name.split(".")[0] in FORBIDDEN_MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in FORBIDDEN_MODULES:
                yield f"imports from {module}"
            case ast.Call(func=ast.Name(name)) if name in FORBIDDEN_CALLS or (name == "import_module" and not by_name):
                yield f"line {node.lineno}: calls {name}"
            case ast.Call(func=ast.Attribute(value=ast.Name("importlib"), attr="import_module")) if not by_name:
                yield f"line {node.lineno}: imports by name"
            case ast.Call(func=ast.Attribute(attr="import_module")) if not by_name:
                yield f"line {node.lineno}: imports by name"
            case ast.Attribute(attr=attr) if attr in FORBIDDEN_ATTRIBUTES:
                yield f"line {node.lineno}: uses {attr}"
            case _:
                continue


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.case("S1")
def test_nothing_that_is_read_is_imported_called_or_evaluated(module: str):
    assert not list(_violations(MODULES[module], by_name=module in IMPORTS_BY_NAME))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, marshal",
        "from pickle import loads",
        "import pickle as p",
        "eval('1')",
        "exec(body)",
        "__import__(name)",
        "import importlib\nimportlib.import_module(name)",
        "import_module(name)",
        "type(x).__subclasses__()",
    ],
)
@pytest.mark.case("S1")
def test_the_check_itself_sees_each_of_them(source: str):
    assert list(_violations(ast.parse(source)))


@pytest.mark.case("S1")
def test_only_tables_and_entry_points_are_imported_by_name():
    named = {
        module
        for module, tree in MODULES.items()
        if any(isinstance(node, ast.ImportFrom) and node.module == "importlib" for node in ast.walk(tree))
    }
    assert named <= IMPORTS_BY_NAME, "review what is imported, then add the module to IMPORTS_BY_NAME"
