"""Files and folders that are whole or absent, JSON with errors that name the file, and the folder of a long run.

All is written beside its place and swapped in: a process killed at any point leaves the old state or the new one.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields, is_dataclass
from numbers import Real
from pathlib import Path, PureWindowsPath
from types import NoneType, UnionType
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from patchioner.base.errors import CheckpointError, OptionError, UnknownNameError

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, nobody watches
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")
AnyPath = str | os.PathLike[str]
_COPIES = {"__MACOSX", "@eaDir", "thumbnails", "thumbs"}
_log = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: AnyPath) -> Iterator[Path]:
    """Yield a path beside `path`, whose folder is made; on success it takes `path`'s place, else it is removed."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system.
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG) and error.filename is None:
            error.filename = os.fspath(path)  # a full disk does not say whose
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: AnyPath, owned: Collection[str] | None = None) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it takes `path`'s place as a whole, else it is removed.

    Where the system cannot swap folders in one step (other than Linux), a kill within two renames leaves no folder;
    the next `replace_folder` or `recover_folder` brings the old one back. Two writers wait for one another. What is not
    among the names `owned` by the writer is carried over; None: nothing is. OptionError: it cannot be replaced.
    """
    target = Path(path).resolve()  # what a link names is replaced, not the link
    if target.exists() and not target.is_dir():
        raise OptionError(f"{os.fspath(path)} is a file: name a folder to write to")
    fresh = _beside(target, "new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock_file(_beside(target, "lock")):
            _bring_back(target)
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            try:
                yield fresh
                _carry_over(target, fresh, owned)
                for entry in [*fresh.rglob("*"), fresh]:
                    _sync(entry)
                _swap_in(fresh, target)
                _sync(target.parent)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    except (PermissionError, BlockingIOError) as error:
        if error.filename is None or Path(error.filename).parent != target.parent:
            raise
        raise OptionError(f"{os.fspath(path)} cannot be replaced ({error.strerror}): name a folder in it") from error


def recover_folder(path: AnyPath) -> None:
    """Bring back a folder whose replacement was killed half way; for readers, who call it where there is none."""
    target = Path(path).resolve()
    if not target.exists() and _beside(target, "old").exists():
        with _lock_file(_beside(target, "lock")):
            _bring_back(target)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, against other processes; OptionError where one has it, or it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{folder} cannot be made ({error.strerror}): choose another") from error
    with held(folder):
        yield


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a file or folder that is there against other processes; OptionError where one has it."""
    if fcntl is None:
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise OptionError(f"another process is writing into {path}: wait for it") from error
    except OSError as error:  # a file system without locks
        _log.warning("%s cannot be locked (%s): see that no second run writes there", path, error)
    try:
        yield
    finally:
        os.close(handle)  # lets go of the lock


def require_other(out: AnyPath, *inputs: AnyPath | None) -> None:
    """OptionError where what is written would take the place of what is read."""
    for one in inputs:
        if one and os.path.exists(out) and os.path.exists(one) and os.path.samefile(out, one):
            raise OptionError(f"{os.fspath(out)!r} would be overwritten, and is read: name another")


def require_new_folder(out: Path) -> None:
    """OptionError where something is."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"{out} exists already: choose an empty or new folder")


def leads_out(name: str) -> bool:
    """Whether a path that a file names leads out of that file's folder, as written; links are the user's own."""
    windows = PureWindowsPath(name)
    return bool(windows.drive or windows.root) or ".." in windows.parts or "\0" in name


def is_copy(path: str) -> bool:
    """Whether a path is hidden, or lies in what a system puts beside files, as macOS's `._name`."""
    return any(part in _COPIES or part.startswith(".") for part in path.split("/"))


def walk(root: AnyPath) -> Iterator[tuple[str, int | None]]:
    """Files below a folder, relative, with "/", and their bytes (None of a broken link); links are followed once."""
    seen = {os.path.realpath(root)}
    for folder, below, files in os.walk(root, followlinks=True):
        wanted = sorted((os.path.islink(os.path.join(folder, one)), one) for one in below)
        below.clear()
        for name in [name for _, name in wanted if not is_copy(name)]:
            real = os.path.realpath(os.path.join(folder, name))
            if real not in seen:
                below.append(name)
                seen.add(real)
        for name in files:
            path = os.path.join(folder, name)
            if not is_copy(name) and (os.path.isfile(path) or os.path.islink(path)):
                size = os.path.getsize(path) if os.path.exists(path) else None
                yield os.path.relpath(path, root).replace(os.sep, "/"), size


def file_sha256(path: AnyPath) -> str:
    """Sha256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: AnyPath, value: object) -> None:
    """Write `value` as readable UTF-8 JSON, atomically; CheckpointError for what JSON cannot express (NaN included)."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{os.fspath(path)}: cannot be written as JSON: {error}") from error
    with atomic_path(path) as temporary:
        # JSON has such escapes for what is no UTF-8, as names of files may be.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def read_json(path: AnyPath) -> Any:
    """Read a JSON file; CheckpointError, which names it, where it is missing, unreadable or not JSON."""
    try:
        # Some editors begin a file with a mark of its encoding.
        return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=without_repeats)
    except FileNotFoundError as error:
        raise CheckpointError(f"{os.fspath(path)}: no such file: is the folder complete") from error
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{os.fspath(path)}: not valid JSON ({error}): fetch anew") from error


def without_repeats(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Keys and values of a file; ValueError for a key that stands there twice, of which one would win unseen."""
    held: dict[Any, Any] = {}
    for key, value in pairs:
        if key in held:
            raise ValueError(f"{key!r:.80} stands there twice")
        held[key] = value
    return held


def check(rule: str | Collection[object], owner: object = None, names: str = "", /, **values: Any) -> None:
    """OptionError, by name, for a value that is none of a collection, or no number of an interval.

    Values are given by name, or are attributes of an owner; an interval may be of whole numbers, and allow None.

    Example:
        >>> check("[0, 1)", dropout=0.1)
        >>> check("int [1, inf) or None", steps=None)
    """
    values |= {name: getattr(owner, name) for name in names.split()}
    if not isinstance(rule, str):
        for name in (name for name, value in values.items() if value not in rule):
            raise OptionError(str(UnknownNameError.among(name, str(values[name]), map(str, rule))))
        return
    interval, or_none, _ = rule.removeprefix("int ").partition(" or None")
    kind: Any = int if rule.startswith("int ") else Real
    low, high = map(float, interval[1:-1].split(","))
    for name, value in values.items():
        if or_none and value is None:
            continue
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        above = is_number and (low < value or (low == value and interval[0] == "["))
        if not above or not (value < high or (value == high and interval[-1] == "]")):
            what = "whole number" if kind is int else "number"
            raise OptionError(f"{name} is {value!r:.80}; give a {what} in {interval}{or_none}")


def settings_from(kind: type[T], values: Any, what: str, **own: Any) -> T:
    """A dataclass of the keys and values of a file, nested ones and mappings of them too; lists become tuples.

    `own` are values that no file sets. OptionError, which begins with `what`: a key that is unknown (the close ones are
    offered) or missing, a value that is not of its annotation's type, or that the class refuses.
    """
    if not isinstance(values, Mapping):
        raise OptionError(f"{what}: expected keys and values, found {values!r:.80}")
    hints = get_type_hints(kind)
    known = [one for one in fields(kind) if one.name not in own]  # type: ignore[arg-type]
    names = [one.name for one in known]
    for key in values:
        if key not in names:
            raise OptionError(f"{what}: {UnknownNameError.among('key', str(key), names)}")
    required = [one.name for one in known if one.default is one.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise OptionError(f"{what}: missing {', '.join(missing)}")
    given = {key: _as(hints[key], value, key, what) for key, value in values.items()}
    try:
        return kind(**given, **own)
    except (TypeError, ValueError, ArithmeticError) as error:  # OptionError is a ValueError
        raise OptionError(f"{what}: {error}") from error


def _as(hint: Any, value: Any, key: str, what: str) -> Any:
    """A value of a file as an annotation has it."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for kind in kinds:
        origin = get_origin(kind) or kind
        if origin in (Any, Literal):  # the class knows the words
            return value
        if is_dataclass(kind) and isinstance(value, Mapping):
            return settings_from(kind, value, f"{what}: {key}")  # type: ignore[arg-type]
        if origin is Mapping and isinstance(value, Mapping):
            inner = get_args(kind)[1]
            return {name: _as(inner, one, str(name), f"{what}: {key}") for name, one in value.items()}
        if origin is tuple and isinstance(value, list | tuple):
            return tuple(_as(get_args(kind)[0], one, key, what) for one in value)
        wanted = (int, float) if kind is float else origin
        if isinstance(value, wanted) and (kind is bool or type(value) is not bool):
            return value
    wanted = " or ".join(kind.__name__ for kind in kinds if kind is not NoneType)
    raise OptionError(f"{what}: {key} is {value!r:.80}; it must be {wanted}")


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f".{target.name}.{what}")


def _sync(path: Path) -> None:
    with suppress(OSError):  # not every system syncs folders, nor every file system files
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _lock_file(path: Path) -> Iterator[None]:
    """Wait for the lock of a file, which is gone again afterwards."""
    if fcntl is None:
        yield
        return
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                break
        except FileNotFoundError:
            pass  # the one before us removed it
        os.close(handle)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _bring_back(target: Path) -> None:
    old = _beside(target, "old")
    if old.exists() and not target.exists():
        os.rename(old, target)
    shutil.rmtree(old, ignore_errors=True)


def _carry_over(target: Path, fresh: Path, owned: Collection[str] | None) -> None:
    if not target.exists():
        return
    shutil.copymode(target, fresh)
    if owned is None:
        return
    for entry in target.iterdir():
        if entry.name in owned or (fresh / entry.name).exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, fresh / entry.name, symlinks=True, copy_function=_link)
        else:
            _link(entry, fresh / entry.name)


def _link(source: AnyPath, target: AnyPath) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _swap_in(fresh: Path, target: Path) -> None:
    """Put one folder in the place of another, which may stay where the first one was."""
    if not target.exists():
        os.rename(fresh, target)
    elif not _exchange(fresh, target):
        old = _beside(target, "old")
        os.rename(target, old)
        try:
            os.rename(fresh, target)
        except OSError:
            os.rename(old, target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2 if sys.platform == "linux" else None
    except (OSError, AttributeError):
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, bytes(one), here, bytes(other), swap) == 0


class RunFolder:
    """A folder claimed by one run, which may be `finished`. Made by `claim`."""

    def __init__(self, record: Path, identity: Mapping[str, Any], *, finished: bool) -> None:
        self._record, self._identity, self.finished = record, identity, finished

    @classmethod
    @contextmanager
    def claim(cls, root: Path, identity: Mapping[str, Any], *, resume: bool, record: str) -> Iterator[Self]:
        """Hold an empty or absent folder, or, with `resume`, the one of the same run, against other processes.

        `identity` are JSON values that decide where the run ends; the file `record` says them. OptionError: the folder
        holds something else, another run, or this one without `resume`; another process writes there.
        """
        if root.exists() and not root.is_dir():
            raise OptionError(f"{root} is a file: name a folder to write to")
        with folder_lock(root):
            wanted = json.loads(json.dumps(identity))
            yield cls(root / record, wanted, finished=_look(root, record, wanted, resume))

    @property
    def work(self) -> Path:
        """Intermediate files; gone when the run is finished."""
        return self._record.parent / "unfinished"

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
    if changed := ", ".join(differences(run, wanted)):
        raise OptionError(f"{root} holds another run ({changed} differ): choose another folder")
    if not resume:
        raise OptionError(f"{root} holds this very run: resume it, or choose another folder")
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
