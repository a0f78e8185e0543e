"""`patchioner serve`: a page and an API on one model. The options are the fields of `ServeSettings`."""

from __future__ import annotations

import argparse
import logging
import os
import typing
from dataclasses import fields
from pathlib import Path

from patchioner.base.optional import require
from patchioner.cli import spelling
from patchioner.cli.output import report
from patchioner.serve.settings import ServeSettings

_EXAMPLES = """\
examples:
  patchioner serve
  patchioner serve --host 0.0.0.0 --token "$(openssl rand -hex 16)"

docs/serve.md has the API. Ctrl-C or SIGTERM finishes what is under way and stops.
"""
_FIRST = ("host", "port", "token")
_ALSO = {"root": ("--review",)}


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `patchioner serve` takes."""
    parser.description = (
        "Serve a page and an API, also for clients of OpenAI and Ollama, on one model."
    )
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.set_defaults(run=serve)
    spelling.add_model(parser.add_argument)
    advanced = parser.add_argument_group("advanced")
    hints = typing.get_type_hints(ServeSettings)
    for one in fields(ServeSettings):
        add = (parser if one.name in _FIRST else advanced).add_argument
        flag, text = f"--{one.name.replace('_', '-')}", one.metadata["help"]
        if hints[one.name] is bool:
            add(flag, action="store_true", help=text)
            continue
        kind = next(kind for kind in (int, float, Path, str) if kind in _kinds(hints[one.name]))
        told = "" if one.default is None else " (default: %(default)s)"
        form = one.metadata["metavar"]
        also = _ALSO.get(one.name, ())
        add(flag, *also, type=kind, default=one.default, metavar=form, help=text + told)


def _kinds(hint: object) -> tuple[object, ...]:
    return typing.get_args(hint) or (hint,)


def serve(options: argparse.Namespace) -> int:
    """Serve until told to stop.

    Raises:
        PatchionerError: the options, the model or the extra are not usable.
    """
    given = {one.name: getattr(options, one.name) for one in fields(ServeSettings)}
    settings = ServeSettings(**given | {"token": options.token or os.getenv("PATCHIONER_TOKEN")})
    for module in ("fastapi", "uvicorn", "python_multipart"):
        require(module, "serve")
    from patchioner.model import Patchioner
    from patchioner.serve.app import run_server

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("patchioner.serve").setLevel(logging.INFO)
    model = Patchioner.from_pretrained(options.model, device=options.device)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    report(f"{model!r} listens on http://{host}:{settings.port}")
    run_server(model, settings)
    return 0
