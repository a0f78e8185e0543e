"""The folder that a long run writes to: empty, the same run gone on with, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from patchioner.base.errors import OptionError
from patchioner.base.files import folder_lock, read_json, write_json

_WORK = "unfinished"


class RunFolder:
    """A folder claimed by one run. Made by `claim`.

    Attributes:
        finished: whether the run is done.
    """

    def __init__(self, record: Path, identity: Mapping[str, Any], *, finished: bool) -> None:
        self._record, self._identity, self.finished = record, identity, finished

    @classmethod
    @contextmanager
    def claim(
        cls, root: Path, identity: Mapping[str, Any], *, resume: bool, record: str
    ) -> Iterator[Self]:
        """Hold an empty or absent folder, or, with `resume`, the one of the same run, against other processes.

        Args:
            root: the folder.
            identity: JSON values that decide where the run ends.
            resume: go on with what is there.
            record: name of the file that says what the run is.

        Raises:
            OptionError: the folder holds something else, another run, or this run without `resume`; another process
                writes there.

        Example:
            >>> with RunFolder.claim(out, {"seed": 0}, resume=True, record="run.json") as run:  # doctest: +SKIP
            ...     write_shards(run.work)
            ...     run.finish({"rows": 3})
        """
        if root.exists() and not root.is_dir():
            raise OptionError(f"{root} is a file: name a folder to write to")
        with folder_lock(root):
            wanted = json.loads(json.dumps(identity))
            yield cls(root / record, wanted, finished=_look(root, record, wanted, resume))

    @property
    def work(self) -> Path:
        """Intermediate files; gone when the run is finished."""
        return self._record.parent / _WORK

    def finish(self, result: Mapping[str, Any]) -> None:
        """Note the result and drop the intermediate files."""
        write_json(self._record, {"run": self._identity, "finished": True, **result})
        shutil.rmtree(self.work, ignore_errors=True)
        self.finished = True


def _look(root: Path, record: str, wanted: Mapping[str, Any], resume: bool) -> bool:
    """Whether the run that `root` holds is finished; of an empty folder, its record is written."""
    path = root / record
    if not path.exists():
        # What a kill within the first write left is nobody's.
        for litter in root.glob(f".{record}.*.tmp"):
            litter.unlink(missing_ok=True)
        if any(root.iterdir()):
            raise OptionError(f"{root} holds other files: choose an empty or new folder")
        write_json(path, {"run": wanted, "finished": False})
        return False
    found = read_json(path)
    run = found.get("run") if isinstance(found, dict) else None
    if not isinstance(run, dict):
        raise OptionError(f"{path} is not ours: choose an empty or new folder")
    if changed := differences(run, wanted):
        raise OptionError(
            f"{root} holds another run ({', '.join(changed)} differ): choose another folder, or the same settings"
        )
    if not resume:
        raise OptionError(
            f"{root} holds this very run already: resume it, or choose another folder"
        )
    return found.get("finished") is True


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Dotted names of the values that differ.

    Example:
        >>> differences({"a": {"b": 1}}, {"a": {"b": 2}, "c": 3})
        ['a.b', 'c']
    """
    names = []
    for key in sorted(found.keys() | wanted.keys()):
        one, other = found.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names += [f"{key}.{name}" for name in differences(one, other)]
        elif one != other:
            names.append(key)
    return names
