"""The tree keeps its shape: arrows point one way, modules are short, libraries do not print."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "patchioner.base": set[str](),
    "memory_bank": {"patchioner.base"},
    "decoders": {"patchioner.base"},
    "patchioner": {"patchioner.base", "memory_bank", "decoders"},
    "benchmarks": {"patchioner.base", "memory_bank", "decoders", "patchioner"},
    "runs": {"patchioner.base", "memory_bank", "decoders", "patchioner", "benchmarks"},
}
LONGEST_MODULE, LONGEST_FUNCTION = 600, 80
MODULES = sorted(
    path for room in MAY_IMPORT for path in (ROOT / room.split(".")[0]).rglob("*.py")
)  # fmt: skip


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(dotted: str) -> str | None:
    """The room that a module belongs to, or None outside the project."""
    parts = dotted.split(".")
    if parts[:2] == ["patchioner", "base"]:
        return "patchioner.base"
    return parts[0] if parts[0] in MAY_IMPORT else None


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import, at the top or inside a function; name is "" for a whole module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or ".", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def test_arrows_point_one_way() -> None:
    wrong = []
    for path in MODULES:
        own = room_of(dotted(path))
        assert own is not None
        for module, name in imports(path):
            # `from patchioner import base` names the room in its second half
            seen = room_of(f"{module}.{name}") or room_of(module)
            if seen is not None and seen != own and seen not in MAY_IMPORT[own]:
                wrong.append(f"{dotted(path)} imports {module}.{name}")
    assert wrong == []


def test_no_private_name_crosses_from_one_room_to_another() -> None:
    wrong = [
        f"{dotted(path)} imports {module}.{name}"
        for path in MODULES
        for module, name in imports(path)
        if room_of(module) not in (None, room_of(dotted(path)))
        and any(
            part.startswith("_") and not part.endswith("__") for part in [*module.split("."), name]
        )
    ]
    assert wrong == []


def test_every_module_opens_with_a_docstring() -> None:
    assert [dotted(path) for path in MODULES if not ast.get_docstring(tree(path))] == []


def test_modules_and_functions_can_be_read_at_a_sitting() -> None:
    long = [
        dotted(path)
        for path in MODULES
        if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_MODULE
    ]
    long += [
        f"{dotted(path)}.{node.name}"
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []


def test_libraries_do_not_print() -> None:
    wrong = [
        f"{dotted(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
        and not any(keyword.arg == "file" for keyword in node.keywords)
    ]
    assert wrong == []
