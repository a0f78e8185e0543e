"""Where the files of a published model are: beside its config, in subfolders, or on the hub.

Knows: folders, the hub's cache and downloads (through huggingface_hub, offline mode honoured). Does not know: what is
in a file.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from patchioner.base.errors import CheckpointError, HubError


@dataclass(frozen=True)
class PublishedFiles:
    """The files around one config.

    Attributes:
        root: folder of the config.
        config: the config file itself.
        hub_id: repository to fetch missing files from, or None.
    """

    root: Path
    config: Path
    hub_id: str | None = None

    @classmethod
    def of(cls, path: Path, hub_id: str | None = None) -> PublishedFiles:
        """The files of a folder with a config.yaml, or around a YAML file."""
        config = path / "config.yaml" if path.is_dir() else path
        if not config.is_file():
            raise CheckpointError(f"{config}: no such file; a published model has a config.yaml")
        return cls(config.parent, config, hub_id)

    @property
    def name(self) -> str:
        """What the model is called: its hub id where the folder is one of the hub's cache, else its folder or file."""
        for folder in (self.root, *self.root.parents):
            if folder.name.startswith("models--"):
                return folder.name.removeprefix("models--").replace("--", "/")
        return self.root.name if self.config.name == "config.yaml" else self.config.stem

    def find(self, given: str, what: str) -> Path:
        """The file that a config names.

        Looked for as it is given, then by its base name beside the config, then in the hub repository.

        Raises:
            CheckpointError: nowhere to be found; says where it was looked for.
        """
        name = base_name(given)
        for candidate in (self.root / given, self.root / name):
            if name and candidate.is_file():
                return candidate
        looked = f"beside {self.config}"
        if self.hub_id is not None:
            try:
                return fetch(self.hub_id, name)
            except HubError as error:
                looked += f", nor to be had from the hub: {error}"
        raise CheckpointError(f"{what} {name!r} is not {looked}. Put the file there")

    def any_of(self, patterns: Iterable[str]) -> Path | None:
        """The only file beside the config that fits the first pattern that any fits; None where none does.

        What comes out of a config goes into a pattern by `as_pattern`.

        Raises:
            CheckpointError: several fit one pattern, and which is meant cannot be known.
        """
        for pattern in patterns:
            found = sorted(path for path in self.root.glob(pattern) if path.is_file())
            if len(found) > 1:
                names = ", ".join(path.name for path in found)
                raise CheckpointError(f"{self.root}: which of {names}? Leave one there")
            if found:
                return found[0]
        return None


def fetch(hub_id: str, name: str) -> Path:
    """One file of a hub repository, from the cache where it is there already.

    Raises:
        HubError: no connection, no such repository or no such file.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub_id, name))
    except Exception as error:  # its transport raises errors of its own, others in each release
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise HubError(f"{name!r} of {hub_id} cannot be fetched ({lines[0]})") from error


def as_pattern(given: str) -> str:
    """The last part of a path, as a pattern that fits that name alone.

    Example:
        >>> as_pattern("/raid/somebody/weights[1]")
        'weights[[]1]'
    """
    return glob.escape(base_name(given))


def base_name(given: str) -> str:
    """The last part of a path as anybody may have written it, on either kind of system."""
    return PurePosixPath(PureWindowsPath(given).as_posix()).name
