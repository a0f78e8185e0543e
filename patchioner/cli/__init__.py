"""The command line, `patchioner VERB ...`: a file for each verb, each a client of the public API; here its entry point.

Exit status: 0 all went well, 1 something failed (a line on standard error says what), 2 wrong usage, 3 some rows of a
batch failed, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from patchioner import __version__
from patchioner.base.progress import guarded, printable
from patchioner.cli.spelling import attach_negative_values

VERBS = {
    "caption": ("caption", "caption photos or regions of them"),
    "detail": ("detail", "describe photos at length"),
    "batch": ("batch", "many photos into rows, resumable"),
    "alt": ("batch", "alt text of many photos"),
    "models": ("models", "what can be loaded, and its size"),
    "convert": ("models", "write a model in our own format"),
    "export": ("models", "run a model's backbone in another runtime"),
    "calibrate": ("calibrate", "how sure a model's captions are"),
    "bank": ("bank", "build, look into or shrink memory banks"),
    "serve": ("models", "a page and an API"),
    "doctor": ("models", "what is installed here, and what is in its way"),
}
"""Verb -> module of this package, whose `add_VERB_arguments` sets arguments and `run`, and one line of help."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage."""
        self.exit(2, f"{self.prog}: error: {printable(' '.join(message.split()))} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, of arguments without the program's name or of the process, and return its exit status.

    Example:
        >>> main(["caption", "photo.jpg", "--box", "10,20,200,220"])  # doctest: +SKIP
        0
    """
    _open_standard_streams()
    arguments = attach_negative_values(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(arguments), "patchioner: ", "error: stopped")


def _run(arguments: list[str]) -> int:
    verb = next((word for word in arguments if not word.startswith("-")), "")
    try:
        parser = command_parser(verb)
        if not arguments:
            parser.print_help()
            return 0
        options = parser.parse_args(arguments)
        return int(options.run(options))
    except SystemExit as stop:  # argparse has written its message
        return stop.code if isinstance(stop.code, int) else 2
    except BrokenPipeError:
        # Whoever reads our output has enough: the flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _open_standard_streams() -> None:
    """Where a stream is closed, the next file that is opened would take its place and get what is meant for it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def command_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser, with the arguments of one verb, whose module alone is imported; None for those of all."""
    parser = _Parser(prog="patchioner", description="Caption any region of a photo, zero-shot and offline.")
    parser.add_argument("--version", action="version", version=f"patchioner {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module, help_) in VERBS.items():
        command = commands.add_parser(name, help=help_)
        if verb is None or verb == name:
            found = importlib.import_module(f"patchioner.cli.{module}")
            getattr(found, f"add_{name}_arguments")(command)
    return parser
