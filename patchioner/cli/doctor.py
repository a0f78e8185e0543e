"""`patchioner doctor`: version, devices, extras, shadowed packages, hub cache and offline switches."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import patchioner
from patchioner.base.optional import install_line
from patchioner.cli.output import report_error, write_line

DISTRIBUTION = "openpatchioner"
EXTRAS = {
    "demo": ("skimage",),
    "coco": ("pycocotools",),
    "metrics": ("pycocoevalcap", "yaml"),
    "clip": ("open_clip",),
    "published": ("open_clip", "yaml", "h5py", "pyarrow"),
    "language-models": ("transformers", "peft"),
    "faiss": ("faiss",),
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "api": ("openai",),
    "supervision": ("supervision",),
    "serve": ("fastapi", "uvicorn", "python_multipart", "prometheus_client"),
}
"""Extra -> the modules that it installs."""
SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT")
_ROOT = Path(patchioner.__file__).resolve().parent.parent


def add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare that `patchioner doctor` takes nothing."""
    parser.description = (
        "Say what is installed here and what is in its way; exit status 1 for that."
    )
    parser.set_defaults(run=doctor)


def doctor(options: argparse.Namespace) -> int:
    """Write the report; the exit status."""
    parts = {"version": _versions, "devices": _devices, "extras": _extras, "model hub": _hub}
    for heading, rows in ((heading, part()) for heading, part in parts.items()):
        write_line(heading)
        for name, value in rows:
            write_line(f"  {name:<16} {value}")
    problems = list(shadows())
    for problem in problems:
        report_error(problem)
    if not problems:
        write_line("no problem found")
    return int(bool(problems))


def _versions() -> Iterator[tuple[str, str]]:
    where = "a checkout" if (_ROOT / "setup.cfg").is_file() else "installed"
    yield "patchioner", f"{patchioner.__version__} ({where}: {_ROOT})"
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in ("torch", "timm", "tokenizers", "safetensors", "huggingface_hub", "transformers"):
        yield name, _version(name) or "not installed"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> Iterator[tuple[str, str]]:
    import torch

    yield "cpu", f"{os.cpu_count()} cores, torch works with {torch.get_num_threads()} threads"
    if not torch.cuda.is_available():
        yield "cuda", f"none that torch {torch.__version__} can use"
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", f"{found.name}, {found.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "mps", "there"


def _extras() -> Iterator[tuple[str, str]]:
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        lacks = f"no {', '.join(missing)}: {install_line(extra)}"
        yield extra, lacks if missing else "installed"


def _hub() -> Iterator[tuple[str, str]]:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    yield "cache", f"{cache} ({models} models)"
    for name in SWITCHES:
        yield name, os.environ.get(name, "not set")


def shadows() -> Iterator[str]:
    """What is installed under our name. (Files that hide a package of ours are refused at import.)"""
    for distribution in metadata.packages_distributions().get("patchioner", ()):
        if distribution != DISTRIBUTION:
            yield (
                f"the distribution {distribution!r} (the Patch-ioner authors' own) is installed and has the same "
                f"import name: pip uninstall {distribution}, then install {DISTRIBUTION} again"
            )
