"""The tree keeps its shape, and the package its public face: arrows, sizes, no prints, light imports, names."""

import ast
import importlib
import subprocess
import sys
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
FOLDERS = sorted({room.partition(".")[0] for room in MAY_IMPORT})
TEXTS = {
    path.relative_to(ROOT): path.read_text("utf-8") for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
}
NODES = [(path, node) for path, text in TEXTS.items() for node in ast.walk(ast.parse(text))]


def room_of(dotted: str) -> str | None:
    """The room that a module belongs to, or None outside the project."""
    first = dotted.partition(".")[0]
    if f"{dotted}.".startswith("patchioner.base."):
        return "patchioner.base"
    return first if first in MAY_IMPORT else None


def test_arrows_point_one_way_and_carry_no_private_name() -> None:
    for path, node in NODES:
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        own = room_of(".".join(path.with_suffix("").parts))
        above = [node.module or "."] if isinstance(node, ast.ImportFrom) else []
        for parts in ([*above, one.name] for one in node.names):
            told = f"{path} imports {'.'.join(parts)}"
            # `from patchioner import base` names the room in its second half
            seen = room_of(".".join(parts)) or room_of(parts[0])
            if own is not None and seen not in (None, own):
                assert seen in MAY_IMPORT[own], told
                steps = [step for part in parts for step in part.split(".")]
                assert not [s for s in steps if s.startswith("_") and not s.endswith("__")], told


def test_modules_and_functions_can_be_read_at_a_sitting_and_do_not_print() -> None:
    assert [path for path, text in TEXTS.items() if text.count("\n") > LONGEST_MODULE] == []
    for path, node in NODES:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{path}: {node.name}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
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
