"""What the package exports, and whom it may know."""

from __future__ import annotations

import ast
from pathlib import Path

import decoders

ABOVE = {"patchioner", "memory_bank", "benchmarks"}


def test_it_imports_no_package_above_it() -> None:
    folder = Path(decoders.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.startswith("patchioner.base") or name.split(".")[0] not in ABOVE, path
