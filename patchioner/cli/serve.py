"""`patchioner serve`: a page and an API on one model. The options are the fields of `ServeSettings`."""

from __future__ import annotations

import argparse
import logging
import os
import typing
from dataclasses import fields
from pathlib import Path

from patchioner.base.optional import bound_memory, require
from patchioner.cli import spelling
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
    about = "Serve a page and an API, also for clients of OpenAI and Ollama, on one model."
    spelling.add_model(spelling.declare(parser, serve, about, _EXAMPLES))
    advanced = parser.add_argument_group("advanced")
    hints = typing.get_type_hints(ServeSettings)
    for one in fields(ServeSettings):
        add = (parser if one.name in _FIRST else advanced).add_argument
        flags = (f"--{one.name.replace('_', '-')}", *_ALSO.get(one.name, ()))
        hint, told = hints[one.name], one.metadata["help"]
        if hint is bool:
            add(*flags, action="store_true", help=told)
            continue
        told += "" if one.default is None else " (default: %(default)s)"
        kind = next(one for one in (int, float, Path, str) if one in (hint, *typing.get_args(hint)))
        add(*flags, type=kind, default=one.default, metavar=one.metadata["metavar"], help=told)


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

    logging.getLogger("patchioner.serve").setLevel(logging.INFO)
    bound_memory()
    model = Patchioner.from_pretrained(options.model, device=options.device)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    spelling.report(f"{model!r} listens on http://{host}:{settings.port}")
    run_server(model, settings)
    return 0
