"""The Stanford Penn-Treebank tokenizer, as the COCO caption evaluation uses it.

Knows: the tokenizer's program inside pycocoevalcap (CoreNLP 3.4.1) and the punctuation that is dropped afterwards.
Does NOT know: metrics. `benchmarks.metrics.tokenize` is its Java-free stand-in.

Same words as `pycocoevalcap.tokenizer.ptbtokenizer`, but: a caption cannot break into two lines (any kind of line end
inside it is a space, where the package lets all but one shift every later caption by one place), trailing empty
captions are kept, and nothing is written into the installed package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.metrics.java import JavaError, find_java, jar_of, one_line, run_java

JAR: Final = "stanford-corenlp-3.4.1.jar"

DROPPED: Final = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)  # fmt: skip
"""The official list. Its brackets are upper-case while the text is lower-case by then, so brackets are kept."""


def ptb_tokenize(captions: Sequence[str], *, heap: str = "1G") -> list[list[str]]:
    """Return the words of each caption: lower-cased, Treebank conventions, official punctuation dropped.

    All captions go through one run of the program.

    Args:
        captions: n captions; an empty one has no words.
        heap: largest Java heap.

    Returns:
        n lists of words.

    Raises:
        JavaError: no usable Java, or the program failed.
        MissingExtraError: pycocoevalcap is not installed.

    Example:
        >>> ptb_tokenize(["A man's t-shirt."])  # doctest: +SKIP
        [['a', 'man', "'s", 't-shirt']]
    """
    lines = [one_line(caption) for caption in captions]
    if not any(lines):
        return [[] for _ in lines]
    jar = jar_of("tokenizer", JAR)
    command = [
        *find_java("the official tokenizer").arguments(heap=heap), "-cp", JAR,
        "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8",
    ]  # fmt: skip
    text = "".join(f"{line}\n" for line in lines)
    said = run_java(command, folder=jar.parent, text=text, purpose="the official tokenizer").split(
        "\n"
    )
    if len(said) != len(lines) + 1:  # every line ends in a line feed
        raise JavaError(
            f"the official tokenizer gave {len(said) - 1} lines for {len(lines)} captions: a caption holds a"
            " character that it takes for a line end; remove control characters from the captions"
        )
    return [
        [word for word in line.split(" ") if word and word not in DROPPED] for line in said[:-1]
    ]
