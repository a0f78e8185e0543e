"""A model's name -> its folder on disk: a path, the shipped model, or a hub repository.

Knows: names and downloads (all through huggingface_hub, which caches and honours offline mode). Does not know: what is
in a checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from patchioner.base.errors import HubError, UnknownNameError

SHIPPED = "patchioner-mini"


def shipped_models() -> tuple[str, ...]:
    """Names of the models inside the package."""
    return tuple(sorted(folder.name for folder in _shipped_folders()))


def find_model(name: str, *, revision: str | None = None) -> Path:
    """The folder of a checkpoint, or the YAML file that describes one.

    Args:
        name: a folder, a ``.yaml`` file, a shipped name, or a hub id ``owner/name``. Hub repositories of the published
            Patch-ioner are fetched whole, like our own; with ``HF_HUB_OFFLINE=1`` the hub's cache alone is used.
        revision: branch, tag or commit of a hub repository.

    Raises:
        UnknownNameError: neither a folder nor a known name; offers the close ones.
        HubError: the hub cannot be reached or has no such repository; offers the shipped model.
    """
    folder = Path(os.path.expanduser(name))
    if name.strip() and (folder.is_dir() or (folder.is_file() and _is_yaml(folder))):
        return folder
    for shipped in _shipped_folders():
        if shipped.name == name:
            return shipped
    if folder.is_file():
        raise UnknownNameError(
            f"{name!r} is a file that is no checkpoint: give its folder, or a .yaml file"
        )
    if name.count("/") == 1 and not _is_yaml(folder) and not name.startswith((".", "/", "~")):
        return _download(name, revision)
    if name.startswith((".", "/", "~")) or _is_yaml(folder):
        kind = "model file" if _is_yaml(folder) else "checkpoint folder"
        raise UnknownNameError(f"no {kind} at {name!r}: check the path")
    raise UnknownNameError.among("model", name, shipped_models())


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def _shipped_folders() -> Iterator[Path]:
    root = Path(str(resources.files("patchioner") / "checkpoints"))
    return (path for path in root.glob("*") if (path / "config.json").is_file())


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision))
    except Exception as error:  # its transport raises errors of its own, others in each release
        raise HubError(
            f"no folder {name!r} here, and it cannot be fetched from the model hub ({_reason(error)}). Check the "
            f"name and the connection, or use the model inside the package: {SHIPPED!r}"
        ) from error


def _reason(error: Exception) -> str:
    """The first line of the error's message; hub errors run to paragraphs."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def upload(folder: Path, name: str) -> None:
    """Push a checkpoint folder to the hub repository `name`, made on demand."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except Exception as error:  # as in `_download`
        raise HubError(
            f"cannot push to {name!r} ({_reason(error)}). Log in with `hf auth login` and check the name"
        ) from error
