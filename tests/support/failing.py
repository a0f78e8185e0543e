"""The n-th call of one kind to the system fails: for campaigns over n = 1, 2, 3, ... until the work passes."""

import errno
import importlib
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch.overrides import TorchFunctionMode

# What each kind of failure meets: (module, name). Paths of safetensors are written outside of Python.
CALLS: dict[str, tuple[tuple[str, str], ...]] = {
    "open": (("io", "open"), ("builtins", "open"), ("os", "open"), ("os", "mkdir")),
    "write": (("patchioner.base.weights", "save_file"), ("os", "write")),
    "fsync": (("os", "fsync"),),
    "rename": (("os", "replace"), ("os", "rename"), ("os", "link")),
    "allocation": (("numpy", "empty"), ("numpy", "zeros"), ("numpy", "concatenate")),
}
_FACTORIES = ("empty", "zeros", "ones", "full", "cat", "stack")
Action = Callable[[], object]
Check = Callable[[BaseException | None], object]


class Failing(TorchFunctionMode):
    """Counts the `calls` of a kind and fails the n-th; `lasting`, all from then on; `deadly`, it kills the process."""

    def __init__(self, kind: str, nth: int, *, lasting: bool = False, deadly: bool = False) -> None:
        super().__init__()
        self.kind, self.nth, self.lasting, self.deadly, self.calls = kind, nth, lasting, deadly, 0

    def check(self) -> None:
        """Count a call."""
        self.calls += 1
        if self.calls == self.nth or (self.lasting and self.calls > self.nth):
            if self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.kind == "allocation":
                raise MemoryError("no more memory (made by a test)")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "made by a test")

    def wrapped(self, call: Callable[..., Any], *, writes: bool = False) -> Callable[..., Any]:
        """The same call, counted; or, of `open`, what is written to its files."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            if not writes:
                self.check()
            found = call(*args, **kwargs)
            if writes and set("wax+") & set(str(args[1:2] or kwargs.get("mode", ""))):
                found.write = self.wrapped(found.write)
            return found

        return counted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _FACTORIES:
            self.check()
        return func(*args, **(kwargs or {}))


@contextmanager
def failing(kind: str, nth: int, **how: bool) -> Iterator[Failing]:
    """Within it, the `nth` call of a `kind` (a key of `CALLS`) fails, as `Failing` is told."""
    calls = [(*one, False) for one in CALLS[kind]]
    if kind == "write":
        calls += [("io", "open", True), ("builtins", "open", True)]
    with ExitStack() as stack:
        one = Failing(kind, nth, **how)
        for home, name, writes in calls:
            module = importlib.import_module(home)
            call = one.wrapped(getattr(module, name), writes=writes)
            stack.enter_context(patch.object(module, name, call))
        if kind == "allocation":
            stack.enter_context(one)
        yield one


def every_failure(kind: str, action: Action, check: Check, step: int = 1) -> int:
    """Fail each `step`-th call of a kind, once and for good, until the action passes without meeting the failure.

    `check` is told the error, or None, after each try: that the old state or the new one is there. How often it was.
    """
    made = 0
    for nth in itertools.count(1, step):
        for lasting in (False, True):
            error: BaseException | None = None
            with failing(kind, nth, lasting=lasting) as one:
                try:
                    action()
                except Exception as caught:
                    error = caught
            if one.calls < nth:
                return made
            made += 1
            check(error)
    raise AssertionError


def every_kill(kind: str, action: Action, check: Check, step: int = 1) -> int:
    """As `every_failure`, in a child that is killed at the call."""
    for made, nth in enumerate(itertools.count(1, step)):
        child = os.fork()
        if not child:
            with failing(kind, nth, deadly=True):
                try:
                    action()
                finally:
                    os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            return made
        check(None)
    raise AssertionError
