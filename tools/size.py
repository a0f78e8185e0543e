"""The proportions of the house, in one table: lines, files, option classes, flags, words, files that a caption enters.

python tools/size.py            of this tree
python tools/size.py FOLDER     of another checkout beside it
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("patchioner", "patchioner_base", "decoders", "memory_bank")
OPTION_CLASS = re.compile(r"(Options|Settings|Batching|Weighting|Budget|Thresholds|FalseAccepts|Filter)$")


def modules(root: Path, rooms: Sequence[str]) -> list[Path]:
    """The Python files of some top-level folders."""
    return sorted(path for room in rooms for path in (root / room).rglob("*.py"))


def lines(paths: Sequence[Path]) -> int:
    """Their lines, blank ones and comments included."""
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def option_classes(root: Path) -> list[str]:
    """Dataclasses whose fields a user sets."""
    return [
        node.name
        for path in modules(root, PRODUCT)
        if path.parent.name != "text"  # the shapes of networks
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and OPTION_CLASS.search(node.name)
        and any("dataclass" in ast.unparse(one) for one in node.decorator_list)
    ]


def flags(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """(command, flag) of a parser and its subcommands; -h is none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from flags(command)
        elif action.option_strings and not isinstance(action, argparse._HelpAction):
            yield parser.prog, action.option_strings[-1]


def words(paths: Sequence[Path]) -> int:
    """Words as `wc -w` counts them."""
    return sum(len(path.read_text(encoding="utf-8").split()) for path in paths if path.is_file())


def entered(root: Path) -> str:
    """How many files one box caption enters, by `tools/trace.py`."""
    spec = find_spec("skimage")
    assert spec is not None and spec.origin is not None, "the photo comes with scikit-image"
    photo = Path(spec.origin).parent / "data" / "coffee.png"
    command = [sys.executable, str(root / "tools" / "trace.py"), "caption", str(photo)]
    more = ["--box", "165,10,415,310", "--device", "cpu"]
    return subprocess.run([*command, *more], capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def main() -> int:
    """Print the table."""
    root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    sys.path.insert(0, str(root))
    rows = []
    # Of the product the house alone; and with all that was planned beside it.
    targets = {
        "product": "21,000 lines, 90 files; 27,000 with everything planned",
        "benchmarks": "6,500 lines, 30 files",
        "tests": "18,000 lines",
    }
    for name, rooms in (("product", PRODUCT), ("benchmarks", ("benchmarks",)), ("tests", ("tests",))):
        found = modules(root, rooms)
        rows.append((name, f"{lines(found):,} lines, {len(found)} files", targets[name]))
    for room in PRODUCT:
        if found := modules(root, (room,)):
            rows.append((f"  {room}", f"{lines(found):,} lines, {len(found)} files", ""))
    rows.append(("option classes", str(len(option_classes(root))), "14"))
    from patchioner.cli import command_parser

    rows.append(("flags", str(len(list(flags(command_parser())))), "140"))
    rows.append(("README", f"{words([root / 'README.md']):,} words", "1,000 words"))
    documents = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    rows.append(("README + docs", f"{words(documents):,} words", "8,000 words"))
    rows.append(("one box caption", entered(root), "30 files"))
    for name, value, target in rows:
        sys.stdout.write(f"{name:<16} {value}" + (f"   (at most {target})\n" if target else "\n"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
