"""The folder that a long run writes to: empty, the same run, or refused.

Knows: the record of what the run is, and the place of intermediate files. Does not know: what the run does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import nn

from patchioner.base.errors import OptionError
from patchioner.base.files import read_json, write_json

RECORD = "adaptation.json"
_WORK = "unfinished"


class RunFolder:
    """A folder claimed by one run. Made by `claim`."""

    def __init__(self, record: Path, identity: Mapping[str, Any], *, finished: bool) -> None:
        self._record, self._identity, self.finished = record, identity, finished

    @classmethod
    def claim(
        cls, root: Path, identity: Mapping[str, Any], *, resume: bool, record: str = RECORD
    ) -> Self:
        """Take an empty or absent folder, or, with `resume`, the one of the same run.

        Args:
            root: the folder.
            identity: JSON values that decide where the run ends.
            resume: go on with what is there.
            record: name of the file that says what the run is.

        Raises:
            OptionError: the folder holds something else, another run, or this run without `resume`.
        """
        wanted = json.loads(json.dumps(identity))
        if root.exists() and not root.is_dir():
            raise OptionError(f"{root} is a file: name a folder to write to")
        path = root / record
        if not path.exists():
            if root.exists() and any(root.iterdir()):
                raise OptionError(f"{root} holds other files: choose an empty or new folder")
            write_json(path, {"run": wanted, "finished": False})
            return cls(path, wanted, finished=False)
        found = read_json(path)
        run = found.get("run") if isinstance(found, dict) else None
        if not isinstance(run, dict):
            raise OptionError(f"{path} is not ours: choose an empty or new folder")
        if changed := _differences(run, wanted):
            raise OptionError(
                f"{root} holds another run ({', '.join(changed)} differ): choose another folder, or "
                "the same settings"
            )
        if not resume:
            raise OptionError(
                f"{root} holds this very run already: resume it, or choose another folder"
            )
        return cls(path, wanted, finished=found.get("finished") is True)

    @property
    def work(self) -> Path:
        """Intermediate files; gone when the run is finished."""
        return self._record.parent / _WORK

    def finish(self, result: Mapping[str, Any]) -> None:
        """Note the result and drop the intermediate files."""
        write_json(self._record, {"run": self._identity, "finished": True, **result})
        shutil.rmtree(self.work, ignore_errors=True)
        self.finished = True


def digest(*modules: nn.Module) -> str:
    """Sha256 (hex) of all weights of some networks."""
    total = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            total.update(f"{name} {tuple(tensor.shape)}\n".encode())
            total.update(tensor.detach().cpu().float().contiguous().numpy().data)
    return total.hexdigest()


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Dotted names of the values that differ."""
    names = []
    for key in sorted(found.keys() | wanted.keys()):
        one, other = found.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names += [f"{key}.{name}" for name in _differences(one, other)]
        elif one != other:
            names.append(key)
    return names
