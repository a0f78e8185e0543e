"""What a folder of shards is: which run wrote it, which photos lie in which shard; a lock for each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.files import differences, read_json, write_json

FORMAT, VERSION = "patchioner-batch", 1
_FILE = "manifest.json"


class Manifest:
    """The shards of a run, which may grow: photos that are new go into shards of their own. Made by `open`.

    A shard is finished when its file is there: files are renamed into their place when they are whole.

    Attributes:
        folder: where they lie.
        shards: the keys of each.
    """

    def __init__(self, folder: Path, suffix: str, shards: Sequence[Sequence[str]]) -> None:
        self.folder, self.suffix, self.shards = folder, suffix, shards

    @classmethod
    def open(
        cls,
        folder: Path,
        suffix: str,
        identity: Mapping[str, Any],
        keys: Sequence[str],
        per_shard: int,
    ) -> Self:
        """Begin a run in a new or empty folder, or go on with the same one.

        Args:
            suffix: of the shards.
            identity: JSON values; everything that changes what rows say.
            keys: of the source, all that there are now.
            per_shard: how many go into a shard; a run that goes on keeps its own.

        Raises:
            OptionError: the folder holds something else, another run (the message says what differs), or the run of a
                newer release.
        """
        if folder.exists() and not folder.is_dir():
            raise OptionError(f"{folder} is a file: name a folder to write to")
        folder.mkdir(parents=True, exist_ok=True)
        path, wanted = folder / _FILE, json.loads(json.dumps(identity))
        with FileLock(folder / ".manifest.lock"):
            found = _found(path, wanted)
            per_shard = found.get("per_shard", per_shard)
            shards = list(found.get("shards", ()))
            known = {key for shard in shards for key in shard}
            fresh = [key for key in keys if key not in known]
            shards += [fresh[at : at + per_shard] for at in range(0, len(fresh), per_shard)]
            if fresh or not found:
                head = {"format": FORMAT, "version": VERSION, "run": wanted}
                write_json(path, head | {"per_shard": per_shard, "shards": shards})
        return cls(folder, suffix, shards)

    @classmethod
    def read(cls, folder: Path, suffix: str) -> Self:
        """That of a run which another process has begun; OptionError where there is none."""
        return cls(folder, suffix, _checked(folder / _FILE)["shards"])

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"{number:06d}{self.suffix}"

    def paths(self) -> list[Path]:
        """The files of all shards, in order."""
        return [self.path(number) for number in range(len(self.shards))]

    @contextmanager
    def lock(self, number: int, *, wait: bool) -> Iterator[bool]:
        """Hold a shard against other processes; False where another has it and we do not wait. A kill lets go of it."""
        locks = self.folder / ".locks"
        locks.mkdir(exist_ok=True)
        lock = FileLock(locks / f"{number:06d}", timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def _found(path: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of the same run, or nothing in an empty folder."""
    if not path.exists():
        if any(not entry.name.startswith(".") for entry in path.parent.iterdir()):
            raise OptionError(f"{path.parent} holds other files: choose an empty or new folder")
        return {}
    found = _checked(path)
    if changed := differences(found["run"], wanted):
        told = ", ".join(f"{name} ({_at(found['run'], name)}, now {_at(wanted, name)})"
                         for name in changed[:8])  # fmt: skip
        raise OptionError(
            f"{path.parent} holds another run: {told} differ; choose another --out, or the same settings"
        )
    return found


def _checked(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except CheckpointError as error:
        raise OptionError(f"{path} is no manifest: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise OptionError(f"{path} is not ours: choose an empty or new folder")
    if found.get("version") != VERSION:
        raise OptionError(
            f"{path} has version {found.get('version')!r}, this release reads {VERSION}: upgrade"
        )
    return found


def _at(values: Any, dotted: str) -> str:
    for name in dotted.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return f"{values!r:.40}"
