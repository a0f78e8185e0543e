"""What a folder of shards is: which run wrote it, which photos lie in which shard; a lock for each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

from filelock import FileLock, Timeout

from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.files import differences, read_json, write_json
from patchioner.batch.rows import read_rows
from patchioner.batch.sources import Source

FORMAT, VERSION = "patchioner-batch", 1
_FILE = "_manifest.json"  # which readers of folders of Parquet pass over
_log = logging.getLogger(__name__)


class Manifest:
    """The shards of a run, as keys, which may grow: photos that are new go into shards of their own. Made by `open`.

    A shard is finished when its file is there: files are renamed into their place when they are whole.
    """

    def __init__(self, folder: Path, suffix: str, shards: list[list[str]]) -> None:
        self.folder, self.suffix, self.shards = folder, suffix, shards

    @staticmethod
    def require(folder: Path, run: Mapping[str, Any]) -> None:
        """OptionError for what `open` will refuse, as far as it is known without the model; writes nothing."""
        if _found(folder, run):
            next(read_rows(folder), None)  # of another version
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        try:
            with TemporaryFile(dir=there):
                pass
        except OSError as error:
            reason = f"{there} cannot be written to ({error.strerror}): choose another --out"
            raise OptionError(reason) from error

    @classmethod
    def open(cls, folder: Path, suffix: str, run: Mapping[str, Any], source: Source, shards: int | None) -> Self:
        """Begin a run in a new or empty folder, or go on with the same one.

        `run` are JSON values, everything that changes what rows say. A run that goes on keeps its number of keys to a
        shard. What a tar or table gave is forgotten where that file was written anew: its shards are done over.
        OptionError: the folder holds something else, another run (what differs is told), or that of a newer release.
        """
        folder.mkdir(parents=True, exist_ok=True)
        keys, stamps = source.keys(), source.stamps()
        per_shard = max(1, source.per_shard if shards is None else -(-len(keys) // shards))
        with FileLock(folder / ".manifest.lock"):
            found = _found(folder, run)
            per_shard, files = found.get("per_shard", per_shard), found.get("files", {})
            opened = cls(folder, suffix, list(found.get("shards", ())))
            changed = {name for name, now in stamps.items() if files.get(name, now) != now}
            if changed:
                _log.warning("written anew since the last run: %s are done over", sorted(changed))
                opened._forget(changed, keys)
            known = {key for shard in opened.shards for key in shard}
            fresh = [key for key in keys if key not in known]
            opened.shards += _cut(source.together(fresh), per_shard)
            now = {"format": FORMAT, "version": VERSION, "run": run, "per_shard": per_shard}
            now |= {"shards": opened.shards, "files": files | stamps}
            if now != found:
                write_json(folder / _FILE, now)
        return opened

    def _forget(self, changed: set[str], keys: Sequence[str]) -> None:
        """Take away the shards of files that were written anew, and the keys that are no more in these."""
        here = set(keys)
        for number, shard in enumerate(self.shards):
            files = {name for key in shard for name in (key, key.rpartition("#")[0])}
            if files & changed:
                with self.lock(number, wait=True):  # another process may be about it
                    self.path(number).unlink(missing_ok=True)
                self.shards[number] = [key for key in shard if key in here]

    @classmethod
    def read(cls, folder: Path, suffix: str) -> Self:
        """That of a run which has begun; OptionError where there is none."""
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
        try:
            with FileLock(locks / f"{number:06d}", timeout=-1 if wait else 0):
                yield True
        except Timeout:
            yield False


def _cut(groups: Iterable[Sequence[str]], most: int) -> list[list[str]]:
    """Shards of so many keys, or some more to keep a group whole; a longer group is cut."""
    shards = [list[str]()]
    for group in groups:
        for at in range(0, len(group), most):
            if len(shards[-1]) >= most:
                shards.append([])
            shards[-1] += group[at : at + most]
    return shards if shards[0] else []


def _found(folder: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of the same run, of any model where `run` names none, or nothing in an empty or new folder."""
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file: name a folder to write to")
    if not (path := folder / _FILE).exists():
        if any(not entry.name.startswith(".") for entry in folder.glob("*")):
            raise OptionError(f"{folder} holds other files: choose an empty or new folder")
        return {}
    found = _checked(path)
    old, now = found["run"], {"model": found["run"].get("model"), **run}
    if changed := differences(old, now):
        told = ", ".join(f"{name} ({_at(old, name)}, now {_at(now, name)})" for name in changed[:8])
        remedy = "choose another --out, or the same settings"
        raise OptionError(f"{folder} holds another run: {told} differ; {remedy}")
    return found


def _checked(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except CheckpointError as error:
        raise OptionError(f"{path} is no manifest: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise OptionError(f"{path} is not ours: choose an empty or new folder")
    if (version := found.get("version")) != VERSION:  # whose layout may be any
        raise OptionError(f"{path} has version {version!r}, this release reads {VERSION}: upgrade")
    kinds = {"run": dict, "shards": list, "files": dict, "per_shard": int}
    if wrong := [key for key, kind in kinds.items() if not isinstance(found.get(key), kind)]:
        raise OptionError(f"{path} was changed: {wrong} are not as written; choose a new folder")
    return found


def _at(values: Any, dotted: str) -> str:
    for name in dotted.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return f"{values!r:.40}"
