"""Hard prompts of ViECap: the entities that an embedding is close to, in words put before a caption.

Source: Fei et al. 2023 (ViECap, arXiv 2307.16525: entity-aware hard prompts, random masking of entities).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as functional
from torch import Tensor

from decoders.base import TextMemory, check_whole
from patchioner.base.errors import CheckpointError, DecoderError, OptionError, TextError
from patchioner.base.files import atomic_path
from patchioner.base.weights import load_weights, save_weights

NOTHING = "something"
NAMES_FILE, EMBEDDINGS_FILE = "entities.txt", "entities.safetensors"
# The sentences that a name is embedded in; their mean stands for the name.
TEMPLATES = (
    "a photo of a {}", "a {} in a scene", "there is a {} in the picture", "a small {}", "a large {}",
)  # fmt: skip


# The vocabulary that comes with ViECap: the 80 object classes of COCO (Lin et al. 2014, arXiv 1405.0312).
_NAMES = """
airplane, apple, backpack, banana, baseball bat, baseball glove, bear, bed, bench, bicycle, bird, boat, book,
bottle, bowl, broccoli, bus, cake, car, carrot, cat, cell phone, chair, clock, couch, cow, cup, dining table, dog,
donut, elephant, fire hydrant, fork, frisbee, giraffe, hair drier, handbag, horse, hot dog, keyboard, kite, knife,
laptop, microwave, motorcycle, mouse, orange, oven, parking meter, person, pizza, potted plant, refrigerator,
remote, sandwich, scissors, sheep, sink, skateboard, skis, snowboard, spoon, sports ball, stop sign, suitcase,
surfboard, teddy bear, tennis racket, tie, toaster, toilet, toothbrush, traffic light, train, truck, tv, umbrella,
vase, wine glass, zebra
"""

COCO_ENTITIES: tuple[str, ...] = tuple(name.strip() for name in _NAMES.split(","))


def entity_prompt(names: Iterable[str]) -> str:
    """ViECap's sentence about some entities."""
    return f"There are {', '.join(names) or NOTHING} in image."


class EntityPrompter:
    """Names the entities of a fixed vocabulary that an embedding is close to.

    The probability of a name is softmax(cosine / temperature) over the vocabulary. The `top_k` likeliest names are
    taken, likeliest first, up to the first whose probability is below `threshold` (in the shipped configurations 0.4).

    Args:
        names, embeddings: m different entity names and (m, dim) float, scaled to unit length here.

    Example:
        >>> prompter = EntityPrompter(["cat", "dog"], torch.eye(2), threshold=0.4)
        >>> prompter.prompts(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
        ['There are dog in image.', 'There are cat, dog in image.']
    """

    def __init__(
        self,
        names: Sequence[str],
        embeddings: Tensor,
        *,
        temperature: float = 0.01,
        top_k: int = 3,
        threshold: float = 0.2,
    ) -> None:
        self.names = _checked_names(names)
        if embeddings.dim() != 2 or len(embeddings) != len(self.names):
            raise DecoderError(
                f"the entity embeddings have shape {tuple(embeddings.shape)}; "
                f"{len(self.names)} names need ({len(self.names)}, dim)"
            )
        rows = embeddings.detach().float()
        if not bool((torch.isfinite(rows).all(dim=1) & (rows.norm(dim=1) > 0)).all()):
            raise DecoderError("an entity embedding is not finite, or 0; embed the names again")
        check_whole(top_k=top_k)
        if not temperature > 0:
            raise OptionError(f"temperature is {temperature!r}; it must be above 0")
        if not 0 <= threshold <= 1:
            raise OptionError(f"threshold is {threshold!r}; it is a probability, from 0 to 1")
        self.embeddings = functional.normalize(rows, dim=1)
        self.temperature, self.top_k, self.threshold = temperature, top_k, threshold

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return int(self.embeddings.shape[1])

    @property
    def settings(self) -> dict[str, float | int]:
        """What a configuration keeps beside the two files: temperature, top_k, threshold."""
        return {"temperature": self.temperature, "top_k": self.top_k, "threshold": self.threshold}

    def entities(self, embeddings: Tensor) -> list[list[str]]:
        """The names found for each of (n, dim) embeddings, likeliest first; perhaps none."""
        if embeddings.dim() != 2 or embeddings.shape[1] != self.dim:
            raise DecoderError(
                f"embeddings of shape {tuple(embeddings.shape)} cannot be compared with entities of "
                f"width {self.dim}; make the vocabulary with the text tower of this decoder"
            )
        rows = functional.normalize(embeddings.detach().to("cpu", torch.float32), dim=1)
        cosines = rows @ self.embeddings.cpu().T
        probabilities = (cosines / self.temperature).softmax(dim=1)
        values, places = probabilities.topk(min(self.top_k, len(self.names)), dim=1)
        # Sorted descending, so what is above the threshold is what stands before the first below it.
        counts = (values >= self.threshold).sum(dim=1).tolist()
        return [
            [self.names[i] for i in row[:count]]
            for row, count in zip(places.tolist(), counts, strict=True)
        ]

    def prompts(self, embeddings: Tensor, memory: TextMemory | None = None) -> list[str]:
        """The prompt of each of (n, dim) embeddings; a row's does not depend on the others, nor on any memory."""
        return [entity_prompt(names) for names in self.entities(embeddings)]

    def save(self, folder: str | Path) -> None:
        """Write entities.txt (UTF-8, one name a line) and entities.safetensors (always float32: names hang on it)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / NAMES_FILE) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in self.names), encoding="utf-8")
        save_weights({"embeddings": self.embeddings}, folder / EMBEDDINGS_FILE, storage="fp32")

    @classmethod
    def load(cls, folder: str | Path, **settings: Any) -> Self:
        """Read what `save` wrote; `settings` are the constructor's."""
        path = Path(folder) / NAMES_FILE
        try:
            names = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        state = load_weights(path.with_name(EMBEDDINGS_FILE))
        try:
            return cls(names, state["embeddings"], **settings)
        except (KeyError, TextError, DecoderError) as error:
            raise CheckpointError(
                f"{path.parent}: {NAMES_FILE} and {EMBEDDINGS_FILE} do not fit: {error}"
            ) from error


def embed_entities(
    names: Sequence[str],
    embed: Callable[[list[str]], Tensor],
    *,
    templates: Sequence[str] = TEMPLATES,
) -> Tensor:
    """Unit embeddings (m, dim) of names: the mean of each name's unit embeddings in sentences with a "{}" for it."""
    if not templates or any("{}" not in template for template in templates):
        raise OptionError(f'templates are {list(templates)!r}; each needs a "{{}}" for the name')
    rows = embed([template.replace("{}", name) for name in names for template in templates])
    units = functional.normalize(rows.float(), dim=1)
    means = units.view(len(names), len(templates), -1).mean(dim=1)
    return functional.normalize(means, dim=1)


class EntityFinder:
    """Finds the names of a vocabulary in sentences, for training prompts.

    A name counts where it stands as whole words, in any case, in the singular or in a regular plural ("bus",
    "buses"). Of names that overlap, the longer is found ("hot dog", not "dog").

    Example:
        >>> EntityFinder(["dog", "hot dog", "bus"]).find("Two dogs near the buses, with a hot dog")
        ['dog', 'bus', 'hot dog']
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {form: name for name in names for form in _plurals(name.lower())}
        self._names |= {name.lower(): name for name in self._names.values()}
        longest_first = sorted(self._names, key=lambda form: (-len(form), form))
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")

    def find(self, text: str) -> list[str]:
        """The names in the order of their first mention, each once."""
        if not self._names:
            return []
        found = self._pattern.findall(" ".join(text.lower().split()))
        return list(dict.fromkeys(self._names[form] for form in found))


def mask_entities(
    names: Sequence[str], *, share: float, most: int, generator: torch.Generator | None = None
) -> list[str]:
    """Keep each of the first `most` names with probability 1 - `share`; None draws from torch's global generator."""
    draws = torch.rand(len(names[:most]), generator=generator).tolist()
    return [name for name, draw in zip(names[:most], draws, strict=True) if draw >= share]


def _plurals(name: str) -> list[str]:
    """Regular English plurals of a name's last word, the name itself included."""
    forms = [name, f"{name}s"]
    if re.search(r"(s|x|z|ch|sh)$", name):
        forms.append(f"{name}es")
    if re.search(r"[^aeiou]y$", name):
        forms.append(f"{name[:-1]}ies")
    if re.search(r"[^f]fe?$", name):
        forms.append(re.sub(r"fe?$", "ves", name))
    if name == "person" or name.endswith(" person"):
        forms.append(f"{name[:-6]}people")
    if name.endswith("man"):
        forms.append(f"{name[:-3]}men")
    return forms


def _checked_names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TextError(f"expected a list of entity names, got the single string {names!r}")
    if not len(names):
        raise TextError("the entity vocabulary is empty; give at least one name")
    seen: set[str] = set()
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or "\n" in name or name != name.strip():
            raise TextError(f"entity {index} is {name!r}; give words without outer blanks")
        if name in seen:
            raise TextError(f"entity {name!r} is there twice; give each name once")
        seen.add(name)
    return tuple(names)
