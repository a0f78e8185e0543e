"""The `prefix_lm` decoder: a mapper before any causal language model, which stays frozen, gets LoRA, or is trained.

Sources: Mokady et al. 2021 (ClipCap); Hu et al. 2021 (LoRA, arXiv 2106.09685).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from decoders.base import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    TextMemory,
    check_whole,
    reading,
)
from decoders.language_decoder import LanguageDecoder, MappingNetwork, PromptMLP
from decoders.language_model import (
    EXTRA,
    GPT2,
    build_language_model,
    choose_language_model,
    describe_language_model,
    fetch_language_model,
    fingerprint,
    fit_stored,
    turned,
    untied_state,
    vocabulary_of,
    width_of,
)
from decoders.tokenizers import LanguageTokenizer
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.optional import require
from patchioner.base.weights import Storage, fit_weights, load_weights

Mapper = Literal["mlp", "transformer"]
Tune = Literal["frozen", "lora", "full"]
_LORA, _BASE = "lora_", ".base_layer"


@dataclass(frozen=True)
class PrefixLMConfig:
    """Shape of the mapper, and what is trained; OptionError where a value makes no sense.

    Args:
        embedding_dim: width of the embeddings.
        prompt_tokens: vectors that stand before a caption.
        mapper: "mlp" is Linear, tanh, Linear; "transformer" the mapping network of ViECap.
        mapping_layers, mapping_heads: of the "transformer".
        tune: the language model stays "frozen", gets "lora" matrices (needs `peft`), or is trained in "full".
        lora_rank, lora_alpha: of the LoRA matrices.
        lora_targets: names of the layers that get them; () is what `peft` has for this type of model.
        normalize_input: embeddings are scaled to unit length first.
    """

    embedding_dim: int
    prompt_tokens: int = 10
    mapper: Mapper = "mlp"
    mapping_layers: int = 4
    mapping_heads: int = 8
    tune: Tune = "frozen"
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_targets: tuple[str, ...] = ()
    normalize_input: bool = True

    def __post_init__(self) -> None:
        for name, choices in (("mapper", get_args(Mapper)), ("tune", get_args(Tune))):
            if getattr(self, name) not in choices:
                raise OptionError(f"{name} is {getattr(self, name)!r}; choose one of {choices}")
        for name in ("embedding_dim", "prompt_tokens", "lora_rank", "lora_alpha"):
            check_whole(**{name: getattr(self, name)})


class PrefixLMDecoder(LanguageDecoder):
    """Any causal language model behind a trained prefix; it runs without dropout, in training too.

    With a `reference` (hub id or folder), of a model that is not trained in full, only the mapper and the LoRA
    matrices are stored, and loading checks that the language model there is the same; None stores it all. LoRA
    matrices (needs `peft`) are added to `model` in place.
    """

    TYPE: ClassVar[str] = "prefix_lm"
    config: PrefixLMConfig

    def __init__(
        self,
        model: nn.Module,
        tokenizer: LanguageTokenizer,
        config: PrefixLMConfig,
        *,
        reference: str | None = None,
        seed: int = 0,
    ) -> None:
        if reference is not None and config.tune == "full":
            raise OptionError(
                "a language model trained in full is stored in the checkpoint; leave reference out, or "
                "use tune='lora'"
            )
        self.config, self.reference = config, reference
        self._fingerprint = None if reference is None else fingerprint(model)
        parts = {"mapper": _mapper(config, width_of(model), seed), "model": model}
        dim, prefix = config.embedding_dim, config.prompt_tokens
        super().__init__(nn.ModuleDict(parts), tokenizer, dim, prefix_tokens=prefix)
        model.requires_grad_(config.tune == "full")
        if config.tune == "lora":
            _add_lora(model, config, seed)

    @classmethod
    def create(
        cls,
        embedding_dim: int,
        language_model: str | Mapping[str, Any],
        tokenizer: LanguageTokenizer | None = None,
        *,
        keep: Literal["inside", "reference"] = "inside",
        seed: int = 0,
        **settings: Any,
    ) -> Self:
        """A decoder with a fresh mapper, to be trained; errors as `choose_language_model`, and OptionError.

        Args:
            language_model, tokenizer: see `choose_language_model`.
            keep: store the language model "inside" the checkpoint, or only a "reference" to where it came from.
            settings: the other values of `PrefixLMConfig`.
        """
        referred = language_model if keep == "reference" else None
        if not isinstance(referred, str | None):
            raise OptionError("a random language model has no place to refer to; use keep='inside'")
        model, tokenizer = choose_language_model(language_model, tokenizer, seed=seed)
        config = PrefixLMConfig(embedding_dim, **settings)
        return cls(model, tokenizer, config, reference=referred, seed=seed)

    @property
    def module(self) -> nn.Module:
        """The weights to train, shared with the decoder: the mapper, and what `config.tune` says."""
        named = self.model.named_parameters()
        tuned = nn.ParameterDict({_key(name): p for name, p in named if p.requires_grad})
        return nn.ModuleDict({"mapper": self.mapper, "tuned": tuned})

    def prefixes(self, embeddings: Tensor, memory: TextMemory | None = None) -> Sequence[Tensor]:
        """The soft prompt of each row."""
        return list(self.soft_prompts(embeddings, normalize=self.config.normalize_input))

    def save(self, folder: str | Path, *, storage: Storage = "fp16") -> None:
        """Write config.json, weights.safetensors and tokenizer.json."""
        folder = Path(folder)
        state = {f"mapper.{name}": value for name, value in self.mapper.state_dict().items()}
        base, lora = _base_and_lora(self.model)
        state |= {f"lora.{name}": value for name, value in lora.items()}
        place: dict[str, Any] = {"reference": self.reference, "fingerprint": self._fingerprint}
        if self.reference is None:
            state |= {f"language_model.{name}": value for name, value in base.items()}
            place = {"config": describe_language_model(self.model)}
        self._write(folder, state, storage, language_model=place)

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        """Read what `save` wrote, strictly; HubError where a referred language model cannot be had."""
        settings, path = dict(config), folder / CONFIG_FILE
        state = load_weights(folder / WEIGHTS_FILE)
        with reading(path):
            language, end_ids = settings.pop("language_model"), settings.pop("end_ids")
            settings["lora_targets"] = tuple(settings.get("lora_targets", ()))
            model = _stored_model(language, state, folder)
            file, size = folder / TOKENIZER_FILE, vocabulary_of(model)
            tokenizer = LanguageTokenizer.load(file, end_ids=end_ids, vocab_size=size)
            shape, reference = PrefixLMConfig(**settings), language.get("reference")
            decoder = cls(model, tokenizer, shape, reference=reference)
        decoder._fit(state, str(folder / WEIGHTS_FILE))
        return decoder

    def _fit(self, state: Mapping[str, Tensor], source: str) -> None:
        """Load mapper and LoRA matrices; what else the file holds must be the language model."""
        fit_weights(self.mapper, _under(state, "mapper."), source=source)
        own = _base_and_lora(self.model)[1]
        holder = nn.ParameterDict({_key(name): nn.Parameter(t) for name, t in own.items()})
        found = {_key(name): value for name, value in _under(state, "lora.").items()}
        fit_weights(holder, found, source=source)  # into memory that the model shares
        if self.reference is not None and _under(state, "language_model."):
            raise CheckpointError(
                f"{source} holds a language model that config.json refers to elsewhere"
            )


def _key(name: str) -> str:
    """A parameter's name as a key of a ParameterDict, which allows no dots."""
    return name.replace(".", "/")


def _mapper(config: PrefixLMConfig, width: int, seed: int) -> nn.Module:
    dim, count = config.embedding_dim, config.prompt_tokens
    if config.mapper == "mlp":
        return PromptMLP(dim, width, prompt_tokens=count, seed=seed)
    depth = {"layers": config.mapping_layers, "heads": config.mapping_heads, "seed": seed}
    return MappingNetwork(dim, width, prompt_tokens=count, project_tokens=count, **depth)


def _add_lora(model: nn.Module, config: PrefixLMConfig, seed: int) -> None:
    """Put LoRA matrices into the model, in place; only they train."""
    peft = require("peft", EXTRA)
    usual = ["c_attn"] if isinstance(model, GPT2) else None
    settings = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=list(config.lora_targets) or usual,
        # Some models keep their matrices the other way round.
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
    )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(settings, model)
    except ValueError as error:
        raise OptionError(
            f"LoRA does not fit {type(model).__name__}: {error}; name its layers in lora_targets"
        ) from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_LORA in name)
    model.eval()


def _base_and_lora(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The language model's own weights as files have them, and the LoRA matrices; both share memory with it."""
    state = untied_state(model)
    base = {name.replace(_BASE, ""): t for name, t in state.items() if _LORA not in name}
    return turned(model, base), {name: t for name, t in state.items() if _LORA in name}


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _stored_model(place: Any, state: Mapping[str, Tensor], folder: Path) -> nn.Module:
    """The language model of a checkpoint, before any LoRA: from the file, or from where it is referred to."""
    if not isinstance(place, dict) or not {"config", "reference"} & place.keys():
        wrong = f"{folder / CONFIG_FILE}: language_model must have a config or a reference"
        raise CheckpointError(wrong)
    strange = [n for n in state if not n.startswith(("mapper.", "lora.", "language_model."))]
    if strange:
        names = ", ".join(sorted(strange)[:5])
        raise CheckpointError(f"{folder / WEIGHTS_FILE}: unexpected {names}")
    if "config" in place:
        model = build_language_model(place["config"])
        fit_stored(model, _under(state, "language_model."), source=str(folder / WEIGHTS_FILE))
        return model
    model, _ = fetch_language_model(place["reference"])
    if fingerprint(model) != place.get("fingerprint"):
        raise CheckpointError(
            f"{place['reference']!r} is not the language model that this decoder was trained with; fetch "
            "the same version again"
        )
    return model
