"""The official caption metrics, x 100: the scorers of pycocoevalcap after the Stanford tokenizer, of set and samples.
JavaError: there is no usable Java; MissingExtraError: no pycocoevalcap.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.metrics.caption import Floats, Groups, Scores, Texts, check_pairs
from patchioner.base.errors import OptionError
from patchioner.base.optional import require

OLDEST_JAVA = 8
"""SPICE's classes are of Java 8 (METEOR's and the tokenizer's are of Java 5 and 6); the newest tried is 25."""

_REMEDY = (
    "install a Java runtime of version 8 or later (Debian, Ubuntu: apt-get install default-jre-headless) or set"
    " JAVA_HOME, or use the Java-free metrics (java='no')"
)
_TOKENIZER, _METEOR = "stanford-corenlp-3.4.1.jar", "meteor-1.5.jar"

DROPPED: Final = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)  # fmt: skip
"""The official list. Its brackets are upper-case while the text is lower-case by then, so brackets are kept."""


class JavaError(OptionError):
    """Java is missing or too old, or one of its programs failed; the message has the remedy."""


@dataclass(frozen=True)
class Java:
    """A Java runtime: its command, and its version as it says it."""

    command: str
    version: str

    @property
    def release(self) -> int:
        """8 of "1.8.0_312", 17 of "17.0.15", 25 of "25-ea"; JavaError for what is no version."""
        found = re.match(r"(?:1\.)?(\d+)", self.version)
        if found is None:
            raise JavaError(f"{self.command} says {self.version!r} of its version: {_REMEDY}")
        return int(found.group(1))

    def arguments(self, *, heap: str, opens: Sequence[str] = ()) -> list[str]:
        """Head of a command line: largest heap, UTF-8, and the JDK packages opened to reflection."""
        # Modules, and with them the need to open them, came with Java 9; Java 8 refuses the flag.
        flags = [f"--add-opens=java.base/{p}=ALL-UNNAMED" for p in opens if self.release >= 9]
        return [self.command, f"-Xmx{heap}", "-Dfile.encoding=UTF-8", *flags]


def find_java(purpose: str = "the official metrics") -> Java:
    """The Java on the PATH, else under JAVA_HOME; JavaError when there is none, it does not answer, or is too old."""
    home = os.environ.get("JAVA_HOME")
    command = shutil.which("java") or (home and shutil.which("java", path=str(Path(home) / "bin")))
    if not command:
        raise JavaError(f"no `java` is on the PATH for {purpose}: {_REMEDY}")
    found = Java(command, _ask_version(command))
    if found.release < OLDEST_JAVA:
        told = f"{command} is Java {found.version}, too old for {purpose}"
        raise JavaError(f"{told} (Java {OLDEST_JAVA} or later): {_REMEDY}")
    return found


def java_available() -> bool:
    """Whether there is a Java that can be used."""
    with suppress(JavaError):
        return bool(find_java())
    return False


@lru_cache(maxsize=8)
def _ask_version(command: str) -> str:
    try:
        asked = subprocess.run([command, "-version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JavaError(f"{command} -version does not answer ({error}): {_REMEDY}") from error
    said = (asked.stderr + asked.stdout).decode("utf-8", "replace")
    found = re.search(r'version "([^"]+)"', said)
    return found.group(1) if found else _last_lines(said)


def jar_of(package: str, *names: str) -> Path:
    """Path of a file inside a pycocoevalcap package; JavaError or MissingExtraError where it is not."""
    root = Path(next(iter(require("pycocoevalcap", "metrics").__path__)))
    path = root.joinpath(package, *names)
    if not path.is_file():
        raise JavaError(f"{path} is missing: pip install --force-reinstall pycocoevalcap")
    return path


def run_java(command: Sequence[str], *, folder: Path, text: str = "", purpose: str) -> str:
    """Run a program to its end; what it wrote, or JavaError with the end of its complaint."""
    given = _as_bytes(text)
    try:
        done = subprocess.run(command, cwd=folder, input=given, capture_output=True, check=False)
    except OSError as error:
        raise JavaError(f"{purpose} cannot be started ({error}): {_REMEDY}") from error
    if done.returncode:
        said = _last_lines(done.stderr.decode("utf-8", "replace"))
        raise JavaError(f"{purpose} failed (exit status {done.returncode}): {said}")
    return done.stdout.decode("utf-8", "replace")


def one_line(text: str) -> str:
    """Every run of white space, of any kind that Java or Python knows, becomes one space."""
    return " ".join(text.replace("\0", " ").split())


def _as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _last_lines(text: str, count: int = 4) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:])


def ptb_tokenize(captions: Sequence[str]) -> list[list[str]]:
    """Words by the Stanford tokenizer (CoreNLP 3.4.1), lower-cased, official punctuation dropped; one run for all. As
    `pycocoevalcap.tokenizer.ptbtokenizer`, but no line end shifts later captions, and empty ones are kept.
    """
    lines = [one_line(caption) for caption in captions]
    if not any(lines):
        return [[] for _ in lines]
    jar = jar_of("tokenizer", _TOKENIZER)
    command = [
        *find_java("the official tokenizer").arguments(heap="1G"), "-cp", _TOKENIZER,
        "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8",
    ]  # fmt: skip
    text = "".join(f"{line}\n" for line in lines)
    output = run_java(command, folder=jar.parent, text=text, purpose="the official tokenizer")
    said = output.split("\n")
    if len(said) != len(lines) + 1:  # every line ends in a line feed
        told = f"the official tokenizer gave {len(said) - 1} lines for {len(lines)} captions"
        raise JavaError(f"{told}: remove control characters, which it takes for line ends")
    words = [filter(None, line.split(" ")) for line in said[:-1]]  # a word may hold another blank
    return [[word for word in line if word not in DROPPED] for line in words]


class Meteor(ExitStack):
    """METEOR 1.5 (Denkowski, Lavie, 2014) as one running program; a context manager, not for several threads at once.

    The command line is that of the COCO caption evaluation (English, `-norm`). JavaError: the program died, and the
    object is closed.
    """

    def __init__(self) -> None:
        super().__init__()
        jar = jar_of("meteor", _METEOR)
        head = find_java("METEOR").arguments(heap="2G")
        command = [*head, "-jar", _METEOR, "-", "-", "-stdio", "-l", "en", "-norm"]
        # A file, not a pipe: nobody reads it while the program runs, and a full pipe would stop it.
        self._complaints = self.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        how |= {"stderr": self._complaints, "cwd": jar.parent}
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(command, **how)
        except OSError as error:
            self.close()
            raise JavaError(f"METEOR cannot be started ({error}): check `java -version`") from error
        self.callback(self._stop)

    def score(self, predictions: Texts, references: Groups) -> Scores:
        """METEOR x 100 of the set (pooled statistics, so not the mean) and of the n samples."""
        return self.evaluate(self.statistics(predictions, references))

    def statistics(self, predictions: Texts, references: Groups) -> Floats:
        """What METEOR counts of each sample, (n, 23); sums of rows are the counts of a set."""
        check_pairs(predictions, references)
        answers: list[str] = []
        for text, group in zip(predictions, references, strict=True):
            texts = [one_line(one.replace("|||", " ")) for one in (*group, text)]
            self._write(" ||| ".join(["SCORE", *texts]))
            answers.append(self._read())
        return self._numbers(answers)

    def evaluate(self, statistics: Floats) -> Scores:
        """METEOR x 100 of all rows (or sums of rows) of `statistics` pooled, and of each row."""
        rows = (" ".join(map(repr, row)) for row in statistics.tolist())
        self._write(" ||| ".join(["EVAL", *rows]))
        *scores, pooled = self._numbers([self._read() for _ in range(len(statistics) + 1)])
        return 100.0 * float(pooled[0]), 100.0 * np.array(scores, dtype=np.float64)[:, 0]

    def _numbers(self, answers: list[str]) -> Floats:
        """One row of numbers per answer."""
        try:
            return np.array([answer.split() for answer in answers], dtype=np.float64)
        except ValueError:
            raise self._died(f"it answered {answers[0][:80]!r} where numbers were due") from None

    def _write(self, line: str) -> None:
        stream = self._process.stdin
        if stream is None or stream.closed:
            raise JavaError("this METEOR is closed: make a new one")
        try:
            stream.write(_as_bytes(f"{line}\n"))
            stream.flush()
        except OSError as error:
            raise self._died("its input is closed") from error

    def _read(self) -> str:
        stream = self._process.stdout
        assert stream is not None
        line = stream.readline()
        if not line.endswith(b"\n"):
            raise self._died("its output ended")
        return line.decode("utf-8", "replace").strip()

    def _died(self, what: str) -> JavaError:
        self._stop()
        self._complaints.seek(0)
        said = _last_lines(self._complaints.read().decode("utf-8", "replace"))
        self.close()
        told = f"{what}; exit status {self._process.returncode}): {said or 'it said nothing'}"
        return JavaError(f"METEOR died ({told}. Free 1 GB of memory for it, or leave it out")

    def _stop(self) -> None:
        for stream in filter(None, (self._process.stdin, self._process.stdout)):
            with suppress(BrokenPipeError):  # bytes still in our buffer for a program that is gone
                stream.close()
        self._process.kill()
        self._process.wait()


_SCORERS: Final = {
    "bleu": ("bleu.bleu", "Bleu"), "rouge_l": ("rouge.rouge", "Rouge"), "cider": ("cider.cider", "Cider"),
}  # fmt: skip
SPICE_JAR: Final = "spice-1.0.jar"
SPICE_MODELS: Final = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
SPICE_SOURCE: Final = "https://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"
_OPENS: Final = ["java.lang", "java.math", "java.net", "java.text", "java.util", "java.util.concurrent"]  # fmt: skip


def tokenize_pairs(
    predictions: Texts, references: Groups, tokenizer: Callable[[Texts], list[list[str]]]
) -> tuple[list[str], list[list[str]]]:
    """Predictions and references through one run of a tokenizer, each as words joined by spaces."""
    everything = [*predictions, *(text for group in references for text in group)]
    words = iter([" ".join(found) for found in tokenizer(everything)])
    said = list(islice(words, len(predictions)))
    return said, [list(islice(words, len(group))) for group in references]


def official_score(name: str, predictions: Texts, references: Groups) -> tuple[Any, Floats]:
    """ "bleu" ((4,) and (n, 4)), "rouge_l" or "cider" by the published code, of words joined by spaces."""
    if name == "cider" and not any(text for group in references for text in group):
        # The published code takes the maximum over all n-grams, and there are none.
        return 0.0, np.zeros(len(predictions))
    module, kind = _SCORERS[name]
    scorer = getattr(require(f"pycocoevalcap.{module}", "metrics"), kind)
    said = {index: [text] for index, text in enumerate(predictions)}
    due = {index: list(group) for index, group in enumerate(references)}
    if name == "bleu":
        corpus, samples = scorer(4).compute_score(due, said, 0)
    else:
        corpus, samples = scorer().compute_score(due, said)
    return 100.0 * np.asarray(corpus, np.float64), 100.0 * np.asarray(samples, np.float64).T


def official_spice(predictions: Texts, references: Groups) -> Scores:
    """SPICE (Anderson et al., 2016): mean, and the n F-scores; a sample without any proposition scores 0. Nothing is
    fetched (the package's own object fetches its parser over plain HTTP, and fails on Java 17).
    """
    java = find_java("SPICE")
    check_spice()
    rows = [
        {"image_id": index, "test": one_line(text), "refs": [one_line(other) for other in group]}
        for index, (text, group) in enumerate(zip(predictions, references, strict=True))
    ]
    with tempfile.TemporaryDirectory(prefix="spice-") as folder:
        asked, answered = Path(folder) / "in.json", Path(folder) / "out.json"
        asked.write_text(json.dumps(rows), encoding="utf-8")
        # No -cache: the cache's native library is for Intel only, and a stale cache is a wrong score.
        command = [*java.arguments(heap="8G", opens=_OPENS), "-jar", SPICE_JAR, str(asked)]
        command += ["-out", str(answered), "-subset", "-silent"]
        run_java(command, folder=jar_of("spice", SPICE_JAR).parent, purpose="SPICE")
        scores = read_spice(answered, len(rows))
    return float(scores.mean()), scores


def check_spice() -> Path:
    """Folder of SPICE's parser; JavaError while a file is missing."""
    folder = jar_of("spice", SPICE_JAR).parent / "lib"
    missing = [name for name in SPICE_MODELS if not (folder / name).is_file()]
    if missing:
        told = f"SPICE needs {' and '.join(missing)}, which pycocoevalcap does not ship"
        both = " and ".join(SPICE_MODELS)
        raise JavaError(f"{told}: fetch {SPICE_SOURCE} (400 MB), and put {both} into {folder}")
    return folder


def read_spice(path: Path, count: int) -> Floats:
    """F-scores x 100 from SPICE's output for `count` samples, in their order; JavaError if one is missing."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        found = {int(row["image_id"]): float(row["scores"]["All"]["f"]) for row in rows}
        scores = np.array([found[index] for index in range(count)], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = f"SPICE's answer cannot be read ({type(error).__name__}: {error})"
        raise JavaError(f"{told}: run it with more memory or fewer samples") from error
    return 100.0 * np.nan_to_num(scores, nan=0.0)
