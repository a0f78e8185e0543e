"""Which of the project's files and functions a command enters.

python tools/trace.py caption PHOTO --box 10,20,200,220

Anything after the script's name goes to the `patchioner` command. A file is entered by a call of a function in it;
bodies of modules and classes, which run when they are imported, do not count.
"""

from __future__ import annotations

import inspect
import sys
import threading
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("patchioner", "decoders", "memory_bank")


def trace(argv: list[str]) -> tuple[int, set[tuple[str, str]]]:
    """Run the command; its exit status and every (file, function) of the project that any thread entered."""
    entered: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:  # None: of calls alone
        if frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # a function
            entered.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    threading.settrace(note)
    sys.settrace(note)
    try:
        from patchioner.cli import main

        status = main(argv)
    finally:
        sys.settrace(None)
        threading.settrace(None)
    rooms = tuple(f"{ROOT / room}/" for room in ROOMS)
    return status, {(str(Path(file).relative_to(ROOT)), name) for file, name in entered if file.startswith(rooms)}


def main() -> int:
    """Trace the command line given, and print what it entered."""
    sys.path.insert(0, str(ROOT))
    status, entered = trace(sys.argv[1:])
    files = sorted({file for file, _ in entered})
    for file in files:
        inside = sorted(name for path, name in entered if path == file)
        sys.stdout.write(f"{file}: {len(inside)}  {' '.join(inside)}\n")
    sys.stdout.write(f"{len(files)} files and {len(entered)} functions entered\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
