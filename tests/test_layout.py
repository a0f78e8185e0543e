"""The tree keeps its shape, and the package its public face: arrows, sizes, no prints, light imports, names."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import patchioner

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
HEAVY = ("torch", "timm", "tokenizers", "safetensors", "huggingface_hub", "matplotlib", "skimage")
MODULES = sorted(
    path for room in MAY_IMPORT for path in (ROOT / room.split(".")[0]).rglob("*.py")
)  # fmt: skip


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def room_of(dotted: str) -> str | None:
    """The room that a module belongs to, or None outside the project."""
    parts = dotted.split(".")
    if parts[:2] == ["patchioner", "base"]:
        return "patchioner.base"
    return parts[0] if parts[0] in MAY_IMPORT else None


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports() -> Iterator[tuple[str, str, str]]:
    """(importer, module, name) of every import; name is "" for a whole module."""
    for path in MODULES:
        for node in nodes(path):
            if isinstance(node, ast.ImportFrom):
                yield from ((dotted(path), node.module or ".", one.name) for one in node.names)
            elif isinstance(node, ast.Import):
                yield from ((dotted(path), one.name, "") for one in node.names)


def test_arrows_point_one_way() -> None:
    wrong = []
    for path, module, name in imports():
        own = room_of(path)
        assert own is not None
        # `from patchioner import base` names the room in its second half
        seen = room_of(f"{module}.{name}") or room_of(module)
        if seen is not None and seen != own and seen not in MAY_IMPORT[own]:
            wrong.append(f"{path} imports {module}.{name}")
    assert wrong == []


def test_no_private_name_crosses_from_one_room_to_another() -> None:
    for path, module, name in imports():
        if room_of(module) not in (None, room_of(path)):
            parts = [part for part in (*module.split("."), name) if not part.endswith("__")]
            assert not any(part.startswith("_") for part in parts), f"{path}: {module}.{name}"


def test_modules_and_functions_can_be_read_at_a_sitting() -> None:
    for path in MODULES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE, path
        for node in nodes(path):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= LONGEST_FUNCTION, f"{path}: {node.name}"


def test_libraries_do_not_print() -> None:
    for path in MODULES:
        for node in nodes(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                to_a_file = any(keyword.arg == "file" for keyword in node.keywords)
                assert node.func.id != "print" or to_a_file, f"{path}:{node.lineno}"


def test_importing_it_its_light_parts_and_making_regions_loads_nothing_heavy() -> None:
    code = (
        "import sys, patchioner.geometry, patchioner.images, patchioner.aggregate\n"
        "from patchioner import Box, Mask, Trace, RegionSet; from patchioner.regions import files\n"
        "RegionSet([Box(0, 0, 2, 2)]); print(*sys.modules)"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert set(out.split()).isdisjoint(HEAVY)


def test_every_exported_name_is_there_documented_and_the_real_one() -> None:
    assert sorted(set(patchioner.__all__)) == patchioner.__all__ == dir(patchioner)
    for name in patchioner.__all__:
        assert name == "__version__" or getattr(patchioner, name).__doc__
    for name, module in patchioner._LAZY.items():
        assert getattr(patchioner, name) is getattr(importlib.import_module(module), name)
