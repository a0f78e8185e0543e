"""The tree keeps its shape: arrows point one way, modules are short and say what they know, libraries do not print."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("patchioner_base", "memory_bank", "decoders", "patchioner", "benchmarks")
MAY_IMPORT = {
    "patchioner_base": set(),
    "memory_bank": {"patchioner_base"},
    "decoders": {"patchioner_base"},
    "patchioner": {"patchioner_base", "memory_bank", "decoders"},
    "benchmarks": {"patchioner_base", "memory_bank", "decoders", "patchioner"},
}
LONGEST_MODULE, LONGEST_FUNCTION = 400, 100

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in MODULES]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, at the top or inside a function; name is "" for a whole module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def test_there_are_modules_to_check() -> None:
    assert len(MODULES) > 60
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_arrows_point_one_way(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    seen = {module.split(".")[0] for module, _ in imports(path)} & set(PACKAGES) - {own}
    assert seen <= MAY_IMPORT[own]


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_no_private_name_crosses_from_one_package_to_another(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    foreign = [
        (module, name)
        for module, name in imports(path)
        if module.split(".")[0] in set(PACKAGES) - {own}
    ]
    private = [
        (module, name)
        for module, name in foreign
        if any(
            part.startswith("_") and not part.endswith("__") for part in [*module.split("."), name]
        )
    ]
    assert private == []


def test_benchmarks_use_documented_packages_only() -> None:
    """Benchmarks stand outside like any user: they import packages, not modules deep inside the captioner."""
    inside = {"patchioner.training", "patchioner.cli", "patchioner.checkpoint"}
    used = {module for path in (ROOT / "benchmarks").rglob("*.py") for module, _ in imports(path)}
    assert not {module for module in used for part in inside if f"{module}.".startswith(f"{part}.")}


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_every_module_opens_with_a_docstring(path: Path) -> None:
    assert ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_modules_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert long == {}


def prints(path: Path) -> list[int]:
    """Lines that call print without naming a file to write to."""
    return [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
        and not any(keyword.arg == "file" for keyword in node.keywords)
    ]


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_libraries_do_not_print(path: Path) -> None:
    assert prints(path) == []


@pytest.mark.parametrize("script", sorted(ROOT.glob("*.py")), ids=lambda path: path.name)
def test_scripts_at_the_root_are_thin(script: Path) -> None:
    """Arguments in, call, result out: no private names, and nothing of the benchmarks."""
    assert ast.get_docstring(tree(script))
    for module, name in imports(script):
        assert not name.startswith("_")
        assert module.split(".")[0] != "benchmarks"
