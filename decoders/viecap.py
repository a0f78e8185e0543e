"""The `viecap` decoder: a soft prompt from a mapping network and a hard prompt of entities before GPT-2.

Source: Fei et al. 2023 (ViECap, arXiv 2307.16525). Unlike there, no caption depends on its batch.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from decoders.base import TextMemory
from decoders.language_decoder import LanguageDecoder
from decoders.scene_graph import entries, singular
from decoders.tokenizers import LanguageTokenizer
from patchioner.base.errors import CheckpointError, DecoderError, OptionError, TextError
from patchioner.base.files import check
from patchioner.base.weights import load_weights, save_weights

if TYPE_CHECKING:
    from decoders.retrieval import ConceptPrompter

Prompts = Literal["soft_hard", "hard_soft", "soft", "hard"]


@dataclass(frozen=True)
class ViecapConfig:
    """Shape of the mapping network, and how prompts are joined; OptionError where a value makes no sense."""

    tune: ClassVar[str] = "full"

    embedding_dim: int
    prompt_tokens: int = 10  # vectors of the soft prompt (published `continuous_prompt_length`)
    project_tokens: int = 10  # vectors that an embedding is projected to first (published `clip_project_length`)
    mapping_layers: int = 8
    mapping_heads: int = 8
    prompts: Prompts = "soft_hard"  # that stand before a caption, in order; "hard" leaves the mapping network unused
    hard_tokens: int = 64  # a hard prompt of more is cut

    def __post_init__(self) -> None:
        check(get_args(Prompts), prompts=self.prompts)
        check("int [1, inf)", hard_tokens=self.hard_tokens)

    def make_mapper(self, width: int, seed: int) -> nn.Module:
        """A fresh mapping network for a language model of this width."""
        return MappingNetwork(self, width, seed)

    @property
    def prefix_tokens(self) -> int:
        """Most vectors before a caption."""
        soft = self.prompt_tokens if "soft" in self.prompts else 0
        return soft + (self.hard_tokens if "hard" in self.prompts else 0)


_MOST_ENTITIES = 10  # named in a prompt of training, as published
EMBEDDINGS_FILE = "entities.safetensors"
# The sentences that a name is embedded in; their mean stands for the name.
TEMPLATES = ("a photo of a {}", "a {} in a scene", "there is a {} in the picture", "a small {}", "a large {}")

COCO_ENTITIES = tuple(" ".join(name) for name in entries("coco classes"))
"""The vocabulary that comes with ViECap: the 80 object classes of COCO (Lin et al. 2014, arXiv 1405.0312)."""


def entity_prompt(names: Iterable[str]) -> str:
    """ViECap's sentence about some entities."""
    return f"There are {', '.join(names) or 'something'} in image."


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
        rows, count = embeddings.detach().float(), len(self.names)
        if rows.dim() != 2 or len(rows) != count:
            raise DecoderError(f"the entity embeddings have shape {tuple(rows.shape)}; names need ({count}, dim)")
        if not bool((torch.isfinite(rows).all(dim=1) & (rows.norm(dim=1) > 0)).all()):
            raise DecoderError("an entity embedding is not finite, or 0; embed the names again")
        check("int [1, inf)", top_k=top_k)
        check("(0, inf)", temperature=temperature)
        check("[0, 1]", threshold=threshold)
        self.embeddings = functional.normalize(rows, dim=1)
        self.temperature, self.top_k, self.threshold = temperature, top_k, threshold

    @property
    def settings(self) -> dict[str, float | int]:
        """Temperature, top_k, threshold."""
        return {"temperature": self.temperature, "top_k": self.top_k, "threshold": self.threshold}

    def entities(self, embeddings: Tensor) -> list[list[str]]:
        """The names found for each of (n, dim) embeddings, likeliest first; perhaps none."""
        if embeddings.shape[-1] != self.embeddings.shape[1]:
            shape, width = tuple(embeddings.shape), self.embeddings.shape[1]
            raise DecoderError(f"embeddings {shape} do not go with entities {width} wide; embed both with one model")
        rows = functional.normalize(embeddings.detach().to("cpu", torch.float32), dim=1)
        probabilities = (rows @ self.embeddings.cpu().T / self.temperature).softmax(dim=1)
        values, places = probabilities.topk(min(self.top_k, len(self.names)), dim=1)
        # Sorted descending, so what is above the threshold is what stands before the first below it.
        counts = (values >= self.threshold).sum(dim=1).tolist()
        return [[self.names[i] for i in row[:count]] for row, count in zip(places.tolist(), counts, strict=True)]

    def prompts(self, embeddings: Tensor, memory: TextMemory | None = None) -> list[str]:
        """The prompt of each of (n, dim) embeddings; a row's does not depend on the others, nor on any memory."""
        return [entity_prompt(names) for names in self.entities(embeddings)]

    def save(self, folder: Path) -> dict[str, Any]:
        """Write entities.safetensors (always float32: names hang on it); what config.json keeps beside it."""
        save_weights({"embeddings": self.embeddings}, folder / EMBEDDINGS_FILE, storage="fp32")
        return {"names": list(self.names), **self.settings}

    @classmethod
    def load(cls, folder: Path, settings: dict[str, Any]) -> Self:
        """Read what `save` wrote and gave; CheckpointError where they do not fit."""
        path, given = folder / EMBEDDINGS_FILE, dict(settings)
        try:
            return cls(given.pop("names"), load_weights(path)["embeddings"], **given)
        except (KeyError, TextError, DecoderError) as error:
            raise CheckpointError(f"{path} does not fit the names of entities: {error}") from error


def embed_entities(names: Sequence[str], embed: Callable[[list[str]], Tensor]) -> Tensor:
    """Unit embeddings (m, dim) of names: the mean of each name's unit embeddings in the sentences of `TEMPLATES`."""
    rows = embed([template.replace("{}", name) for name in names for template in TEMPLATES])
    units = functional.normalize(rows.float(), dim=1)
    return functional.normalize(units.view(len(names), len(TEMPLATES), -1).mean(dim=1), dim=1)


class EntityFinder:
    """Finds the names of a vocabulary in sentences, for training prompts.

    A name counts where it stands as whole words, in any case, in the singular or plural. Of names that overlap, the
    longer is found ("hot dog", not "dog").

    Example:
        >>> EntityFinder(["dog", "hot dog", "bus"]).find("Two dogs near the buses, with a hot dog")
        ['dog', 'bus', 'hot dog']
    """

    def __init__(self, names: Iterable[str]) -> None:
        # Of "glass" and "glasses", both names, the shorter is found.
        self._names = {_singulars(name): name for name in sorted(names, key=len, reverse=True)}
        longest_first = sorted(self._names, key=lambda form: (-len(form), form))
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")

    def find(self, text: str) -> list[str]:
        """The names in the order of their first mention, each once."""
        found = self._pattern.findall(_singulars(text))
        return list(dict.fromkeys(self._names[form] for form in found))


_finder = lru_cache(maxsize=4)(EntityFinder)


def mask_entities(names: Sequence[str]) -> list[str]:
    """Keep each of the first names with a probability of 0.6, as published, by torch's global generator."""
    some = names[:_MOST_ENTITIES]
    return [name for name, draw in zip(some, torch.rand(len(some)), strict=True) if draw >= 0.4]


def _singulars(text: str) -> str:
    """Lower-case words and marks, nouns in the singular, one blank between any two."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    return " ".join("person" if word == "people" else singular(word) for word in words)


def _checked_names(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not len(names):
        raise TextError(f"the entity names are {names!r}; give a list of at least one name")
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name or "\n" in name or name != name.strip():
            raise TextError(f"entity {index} is {name!r}; give words without outer blanks")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise TextError(f"entity {twice[0]!r} is there twice; give each name once")
    return tuple(names)


class MappingNetwork(nn.Module):
    """Linear(dim -> project_tokens * width), `prompt_tokens` constants appended, a transformer, its last outputs.

    Layers are pre-norm, attention goes both ways; `width` is the language model's, a multiple of `mapping_heads`.

    Example:
        >>> shape = ViecapConfig(8, prompt_tokens=3, mapping_layers=1, mapping_heads=2)
        >>> MappingNetwork(shape, 16, seed=0)(torch.zeros(5, 8)).shape
        torch.Size([5, 3, 16])
    """

    def __init__(self, config: ViecapConfig, width: int, seed: int) -> None:
        super().__init__()
        check("int [1, inf)", config, "embedding_dim prompt_tokens project_tokens mapping_layers mapping_heads")
        heads, self.project_tokens = config.mapping_heads, config.project_tokens
        if width % heads:
            raise OptionError(f"width {width} is not a multiple of mapping_heads {heads}; change the heads")
        # torch's layers draw their initial weights from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear = nn.Linear(config.embedding_dim, config.project_tokens * width)
            self.prefix_const = nn.Parameter(torch.randn(config.prompt_tokens, width))
            layers = nn.Sequential(*(_MappingLayer(width, heads) for _ in range(config.mapping_layers)))
            self.transformer = nn.ModuleDict({"layers": layers})

    def forward(self, embeddings: Tensor) -> Tensor:
        """(n, embedding_dim) to the soft prompt (n, prompt_tokens, width)."""
        rows, width = len(embeddings), self.prefix_const.shape[1]
        projected = self.linear(embeddings).view(rows, self.project_tokens, width)
        constants = self.prefix_const.expand(rows, -1, -1)
        out: Tensor = self.transformer["layers"](torch.cat([projected, constants], dim=1))
        return out[:, self.project_tokens :]


class _MappingLayer(nn.Module):
    """Attention without mask (`to_keys_values` gives keys, then values), and a perceptron; both pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"to_queries": nn.Linear(width, width, bias=False)})
        self.attn["to_keys_values"] = nn.Linear(width, 2 * width, bias=False)
        self.attn["project"] = nn.Linear(width, width)
        fc1, fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.mlp = nn.Sequential(OrderedDict(fc1=fc1, relu=nn.ReLU(), fc2=fc2))

    def forward(self, hidden: Tensor) -> Tensor:
        rows, places, width = hidden.shape
        normed = self.norm1(hidden)
        both = self.attn["to_keys_values"](normed).chunk(2, dim=-1)
        queries, keys, values = (
            part.reshape(rows, places, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.attn["to_queries"](normed), *both)
        )
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        hidden = hidden + self.attn["project"](mixed.transpose(1, 2).reshape(rows, places, width))
        out: Tensor = hidden + self.mlp(self.norm2(hidden))
        return out


class ViecapDecoder(LanguageDecoder):
    """Soft prompt, hard prompt, GPT-2 of any size (or another causal language model).

    A caption ends with one of the tokenizer's end tokens, which is no part of its text. The published decoder ends at
    "." or " ." (`tokenizer.ending_with(tokenizer.full_stops())`), after at most 64 tokens, greedily or by beams (5).

    Published training: `TrainOptions(epochs=15, batch=80, learning_rate=2e-5, warmup_steps=5000, decay="linear",
    noise_sigma=0.126, label_smoothing=0.0)`, all weights of both networks.

    `prompter` puts unit embeddings into words, a row's not depending on the others; it may be set later.
    """

    TYPE, MODEL, MAPPER = "viecap", "gpt", "mapping_network"
    CONFIG = ViecapConfig

    def __init__(
        self,
        model: nn.Module,
        tokenizer: LanguageTokenizer,
        config: ViecapConfig,
        prompter: EntityPrompter | ConceptPrompter | None = None,
        **more: Any,
    ) -> None:
        self.prompter = prompter
        super().__init__(model, tokenizer, config, **more)

    def prefixes(self, embeddings: Tensor, memory: TextMemory | None = None) -> Sequence[Tensor]:
        """Soft and hard prompt of each row, joined as the configuration says."""
        if "hard" not in self.config.prompts:
            return self._join(embeddings, None)
        if self.prompter is None:
            raise DecoderError(f"this {self.TYPE} decoder has no hard prompter; set `prompter`, or use prompts='soft'")
        rows = functional.normalize(embeddings.float(), dim=-1)
        return self._join(embeddings, self.prompter.prompts(rows, memory))

    def training_prefixes(self, embeddings: Tensor, tokens: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        """Soft prompt, and a hard prompt of the entities that the caption itself names, in training some left out."""
        if "hard" not in self.config.prompts:
            return self._join(embeddings, None)
        # The entities of the prompter, else the classes of COCO.
        finder = _finder(getattr(self.prompter, "names", COCO_ENTITIES))
        texts = []
        for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True):
            names = finder.find(self.tokenizer.decode(row[:length]))
            kept = mask_entities(names) if self.network.training else names[:_MOST_ENTITIES]
            texts.append(entity_prompt(kept))
        return self._join(embeddings, texts)

    def _save_more(self, folder: Path) -> dict[str, Any]:
        if isinstance(self.prompter, EntityPrompter):
            return {"entities": self.prompter.save(folder)}
        if self.prompter is not None:
            raise CheckpointError(f"a {type(self.prompter).__name__} cannot be saved; use an EntityPrompter")
        return {"entities": None}

    @classmethod
    def _load_more(cls, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
        entities = settings.pop("entities", None)
        return {"prompter": None if entities is None else EntityPrompter.load(folder, entities)}

    def _join(self, embeddings: Tensor, texts: Sequence[str] | None) -> list[Tensor]:
        order = self.config.prompts.split("_")
        parts: dict[str, Sequence[Tensor]] = {}
        if "soft" in order:
            parts["soft"] = list(self.soft_prompts(embeddings))
        if texts is not None:
            parts["hard"] = self._embed(texts)
        return [torch.cat(row) for row in zip(*(parts[name] for name in order), strict=True)]

    def _embed(self, texts: Sequence[str]) -> list[Tensor]:
        """The language model's word vectors (p_i, width) of each prompt; equal prompts are looked up once."""
        words: Any = self.model.get_input_embeddings()  # type: ignore[operator]
        different = list(dict.fromkeys(texts))
        vectors = {}
        for text, ids in zip(different, self.tokenizer.encode(different, lead=False), strict=True):
            vectors[text] = words(torch.tensor(ids[: self.config.hard_tokens], device=self.device))
        return [vectors[text] for text in texts]
