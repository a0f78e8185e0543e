"""Write `catalogue.txt`: 2,000 terse sentences of an invented product catalogue, drawn from `catalogue_goods.txt`.

python examples/make_catalogue.py > examples/catalogue.txt

The goods of a block share materials, colours and remarks, and each names what it may come with, so that any draw makes
sense. The sentences are ours and describe nothing real.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path

COUNT, SEED = 2000, 7
GOODS = Path(__file__).with_name("catalogue_goods.txt")
FORMS = (
    "{material} {name}, {colour}, {trim}. {remark}.",
    "{name}, {material}, {colour}. {remark}.",
    "{name}, {colour}, {trim}. {remark}.",
    "{colour} {name} {trim}. {remark}.",
    "{colour} {material} {name}. {remark}.",
    "{name} {trim}, {colour} {material}. {remark}.",
)
# For goods without materials, without colours.
PLAIN = ("{colour} {name} {trim}. {remark}.", "{name}, {colour}, {trim}. {remark}.")
UNDYED = ("{material} {name} {trim}. {remark}.", "{name} {trim}, {material}. {remark}.")


@dataclass(frozen=True)
class Good:
    """One thing on sale, and the words that go with it."""

    name: str
    trims: list[str]
    materials: list[str]
    colours: list[str]
    remarks: list[str]

    def sentence(self, source: random.Random) -> str:
        """One sentence about it."""
        form = source.choice(self._forms())
        material = source.choice(self.materials)
        # "steel knife, matt grey" may be said of every pair but the same word twice: "white, white".
        colours = [colour for colour in self.colours if colour != material]
        return form.format(
            name=self.name,
            material=material,
            colour=source.choice(colours),
            trim=source.choice(self.trims),
            remark=source.choice(self.remarks),
        )

    def _forms(self) -> tuple[str, ...]:
        if self.materials == ["-"]:
            return PLAIN
        return UNDYED if self.colours == ["-"] else FORMS


def read_goods(text: str) -> list[Good]:
    """Parse blocks of goods."""
    goods = []
    for block in text.strip().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if not lines:
            continue
        shared = [part.strip().split(", ") for part in lines[0].split(" | ")]
        for line in lines[1:]:
            name, trims = line.split(": ")
            goods.append(Good(name, trims.split(", "), *shared))
    return goods


def sentences(goods: list[Good], count: int, seed: int) -> list[str]:
    """`count` different sentences, spread evenly over the goods and shuffled."""
    source = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        for good in goods:
            found[good.sentence(source)] = None
    result = list(found)[:count]
    source.shuffle(result)
    return result


def main() -> None:
    """Write the catalogue to standard output."""
    goods = read_goods(GOODS.read_text(encoding="utf-8"))
    for text in sentences(goods, COUNT, SEED):
        sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
