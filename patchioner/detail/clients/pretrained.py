"""Models of `transformers` and what prepares their input, loaded when they are first needed.

Knows: how they are fetched, in which precision, and what tells two of them apart. Does NOT know: what they are asked.

Nothing is unpickled (safetensors only), and no code that comes with a model is ever run.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path
from typing import Any

import torch

from patchioner.base.errors import HubError, MissingExtraError, OptionError
from patchioner.base.optional import require
from patchioner.model import usable_device

EXTRA = "language-models"
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_LOG = logging.getLogger(__name__)
_ENDS = 1 << 16  # bytes at both ends of a file of weights that are read to tell it from others


class PretrainedModel:
    """A network and its processor (or tokenizer). Threads may share it.

    Args:
        name: an id of the Hugging Face hub or a folder.
        auto_class: the class of `transformers` that reads the network, such as "AutoModelForCausalLM".
        processor_class: the class that reads the other part, "AutoTokenizer" or "AutoProcessor".
        device: where the network goes; None: a GPU if there is one.
        dtype: "float32", "bfloat16", "float16", or "auto": as stored. None: float32 on a CPU, else as stored.
        revision: commit, tag or branch of the hub.
        offline: read local files alone. `HF_HUB_OFFLINE=1` does so too.

    Raises:
        OptionError: no name, an unknown precision or device.

    Example:
        >>> PretrainedModel("gpt2", "AutoModelForCausalLM", "AutoTokenizer").identity
        'hf:gpt2'
    """

    def __init__(
        self,
        name: str,
        auto_class: str,
        processor_class: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        offline: bool = False,
    ) -> None:
        if not name:
            raise OptionError("no model is named; give a hub id or a folder, as in hf:gpt2")
        self.device = usable_device(device)
        if dtype is None:
            dtype = "float32" if self.device.type == "cpu" else "auto"
        if dtype not in _DTYPES:
            raise OptionError(f"dtype is {dtype!r}; it must be one of {', '.join(_DTYPES)}")
        self.name, self.dtype, self.revision, self.offline = name, dtype, revision, offline
        self._classes = auto_class, processor_class
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    @property
    def identity(self) -> str:
        """Id and revision, or the digest of a folder's files: known without loading anything."""
        folder = Path(self.name)
        if folder.is_dir():
            return f"hf:{folder.resolve().name}#{_digest(folder)}"
        return f"hf:{self.name}" + (f"@{self.revision}" if self.revision else "")

    @property
    def settings(self) -> dict[str, object]:
        """Names, ready for JSON."""
        return {"model": self.identity.removeprefix("hf:"), "dtype": self.dtype}

    def parts(self) -> tuple[Any, Any]:
        """The network, in evaluation mode on its device, and the processor; the first call loads them.

        Raises:
            HubError: they cannot be had, or not as safetensors.
            OptionError: `transformers` has no such model of this kind, or it needs code of its own.
            MissingExtraError: a package that they need is not installed.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> tuple[Any, Any]:
        transformers = require("transformers", EXTRA)
        where: dict[str, Any] = {"trust_remote_code": False, "revision": self.revision or "main"}
        offline = self.offline or not (Path(self.name).is_dir() or self._reachable())
        where |= {"local_files_only": True} if offline else {}
        dtype = "auto" if self.dtype == "auto" else getattr(torch, self.dtype)
        auto_class, processor_class = self._classes
        try:
            processor = getattr(transformers, processor_class).from_pretrained(self.name, **where)
            network = getattr(transformers, auto_class).from_pretrained(
                self.name, dtype=dtype, use_safetensors=True, **where
            )
        except OSError as error:
            raise HubError(
                f"the model {self.name!r} cannot be read: {_first_line(error)}; "
                + (
                    "only local files were looked at, as the hub is out of reach or not to be asked; "
                    * offline
                )
                + "give the id of a model with safetensors weights, or a folder that holds one"
            ) from error
        except ImportError as error:
            raise MissingExtraError(
                f"the model {self.name!r} needs a package that is not installed: {_first_line(error)}"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(
                f"{self.name!r} is no model that transformers reads as {auto_class} ({_first_line(error)}); code that "
                "comes with a model is never run"
            ) from error
        return network.to(self.device).eval(), processor

    def _reachable(self) -> bool:
        """Whether the hub answers. Asked once: left to itself, the library tries for minutes, file by file."""
        hub = require("huggingface_hub", EXTRA)
        try:
            url = hub.hf_hub_url(self.name, "config.json", revision=self.revision)
            hub.get_hf_file_metadata(url, timeout=10)
        except (hub.errors.HfHubHTTPError, ValueError):
            return True  # an answer, if not a good one: loading says it better
        except Exception as error:  # of the network, of whichever library the hub's client uses
            _LOG.warning("the hub cannot be reached (%s); looking at local files", error)
            return False
        return True


def _digest(folder: Path) -> str:
    """Of all settings, and of names, sizes and both ends of all weights: reading those whole would take minutes."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".json", ".jinja", ".safetensors", ".model", ".txt"):
            continue
        total.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            if path.suffix != ".safetensors":
                total.update(file.read())
                continue
            total.update(file.read(_ENDS))
            file.seek(max(0, path.stat().st_size - _ENDS))
            total.update(file.read(_ENDS))
    return total.hexdigest()[:16]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
