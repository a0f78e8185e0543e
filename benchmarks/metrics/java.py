"""Finds Java and runs its programs for the official metrics.

Knows: where a `java` command may be, its version, the heap and encoding flags, and how a Java program that fails is
reported. Does NOT know: what any of the programs computes.

Every program gets UTF-8 whatever the locale says (up to Java 17 the locale decides otherwise), so that the same
captions score the same everywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from patchioner.base.errors import OptionError
from patchioner.base.optional import require

OLDEST_JAVA = 8
"""SPICE's classes are of Java 8 (METEOR's and the tokenizer's are of Java 5 and 6); the newest tried is 25."""

_REMEDY = (
    "install a Java runtime of version 8 or later (Debian, Ubuntu: apt-get install default-jre-headless) or set"
    " JAVA_HOME, or use the Java-free metrics (java='no')"
)


class JavaError(OptionError):
    """Java is missing or too old, or one of its programs failed; the message has the remedy."""


@dataclass(frozen=True)
class Java:
    """A Java runtime: its command, its version as it says it, and the feature release (8, 11, 17, ...)."""

    command: str
    version: str
    release: int

    def arguments(self, *, heap: str, opens: Sequence[str] = ()) -> list[str]:
        """Head of a command line: largest heap, UTF-8, and the JDK packages opened to reflection.

        Example:
            >>> Java("java", "1.8.0_312", 8).arguments(heap="1G", opens=["java.util"])
            ['java', '-Xmx1G', '-Dfile.encoding=UTF-8']
        """
        # Modules, and with them the need to open them, came with Java 9; Java 8 refuses the flag.
        flags = [f"--add-opens=java.base/{p}=ALL-UNNAMED" for p in opens if self.release >= 9]
        return [self.command, f"-Xmx{heap}", "-Dfile.encoding=UTF-8", *flags]


def java_command() -> str | None:
    """Path of the `java` on the PATH, else of the one under JAVA_HOME; None without either.

    Example:
        >>> java_command()  # doctest: +SKIP
        '/usr/bin/java'
    """
    found = shutil.which("java")
    if found is None and os.environ.get("JAVA_HOME"):
        found = shutil.which("java", path=str(Path(os.environ["JAVA_HOME"]) / "bin"))
    return found


def java_available() -> bool:
    """Tell whether there is a `java` command (on the PATH or under JAVA_HOME)."""
    return java_command() is not None


def java_version() -> str | None:
    """Version of the Java that the official metrics would use ("17.0.15"); None without a Java that answers.

    Example:
        >>> java_version()  # doctest: +SKIP
        '17.0.15'
    """
    command = java_command()
    try:
        return None if command is None else _ask_version(command)
    except JavaError:
        return None


def find_java(purpose: str = "the official metrics") -> Java:
    """Return the Java runtime, checked.

    Args:
        purpose: who needs it, for the message.

    Raises:
        JavaError: none is found, it does not answer, or it is older than `OLDEST_JAVA`.

    Example:
        >>> find_java().release >= 8  # doctest: +SKIP
        True
    """
    command = java_command()
    if command is None:
        raise JavaError(f"no `java` is on the PATH for {purpose}: {_REMEDY}")
    version = _ask_version(command)
    release = feature_release(version)
    if release < OLDEST_JAVA:
        raise JavaError(
            f"{command} is Java {version}, too old for {purpose} (Java {OLDEST_JAVA} or later): {_REMEDY}"
        )
    return Java(command, version, release)


def feature_release(version: str) -> int:
    """Feature release of a version string: old ones start with "1.".

    Example:
        >>> feature_release("1.8.0_312"), feature_release("17.0.15"), feature_release("25-ea")
        (8, 17, 25)
    """
    found = re.match(r"(?:1\.)?(\d+)", version)
    if found is None:
        raise JavaError(f"{version!r} is no Java version: {_REMEDY}")
    return int(found.group(1))


@lru_cache(maxsize=8)
def _ask_version(command: str) -> str:
    try:
        asked = subprocess.run([command, "-version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JavaError(f"{command} -version does not answer ({error}): {_REMEDY}") from error
    said = (asked.stderr + asked.stdout).decode("utf-8", "replace")
    found = re.search(r'version "([^"]+)"', said)
    if found is None:
        raise JavaError(f"{command} -version says {last_lines(said)!r}: {_REMEDY}")
    return found.group(1)


def jar_of(package: str, *names: str) -> Path:
    """Path of a file inside a pycocoevalcap package.

    Raises:
        MissingExtraError: pycocoevalcap is not installed.
        JavaError: the file is not there.

    Example:
        >>> jar_of("meteor", "meteor-1.5.jar").name  # doctest: +SKIP
        'meteor-1.5.jar'
    """
    root = Path(next(iter(require("pycocoevalcap", "metrics").__path__)))
    path = root.joinpath(package, *names)
    if not path.is_file():
        raise JavaError(f"{path} is missing: pip install --force-reinstall pycocoevalcap")
    return path


def run_java(command: Sequence[str], *, folder: Path, text: str = "", purpose: str) -> str:
    """Run a Java program to its end and return what it wrote, as text.

    Args:
        command: the whole command line.
        folder: working directory.
        text: its standard input.
        purpose: what runs, for the message.

    Raises:
        JavaError: it cannot be started or ends with an error; the message has the end of its complaint.

    Example:
        >>> run_java(["java", "-version"], folder=Path("."), purpose="a test")  # doctest: +SKIP
        ''
    """
    try:
        done = subprocess.run(
            list(command), cwd=folder, input=as_bytes(text), capture_output=True, check=False
        )
    except OSError as error:
        raise JavaError(f"{purpose} cannot be started ({error}): {_REMEDY}") from error
    if done.returncode:
        said = last_lines(done.stderr.decode("utf-8", "replace"))
        raise JavaError(f"{purpose} failed (exit status {done.returncode}): {said}")
    return done.stdout.decode("utf-8", "replace")


def one_line(text: str) -> str:
    """`text` on one line: every run of white space, of any kind that Java or Python knows, becomes one space.

    Example:
        >>> one_line("a\\u2028red\\r\\n  bus")
        'a red bus'
    """
    return " ".join(text.replace("\0", " ").split())


def as_bytes(text: str) -> bytes:
    """UTF-8; what UTF-8 cannot hold (half of a surrogate pair) becomes a question mark."""
    return text.encode("utf-8", "replace")


def last_lines(text: str, count: int = 4) -> str:
    """The last lines of a program's complaint, on one line.

    Example:
        >>> last_lines("a\\nb\\nc", 2)
        'b | c'
    """
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:])
