"""The `prefix_lm` decoder: a mapper before any causal language model, which stays frozen, gets LoRA, or is trained.

Sources: Mokady et al. 2021 (ClipCap); Hu et al. 2021 (LoRA, arXiv 2106.09685).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from decoders.base import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    TextMemory,
    check_whole,
    reading,
)
from decoders.language_decoder import LanguageDecoder, MappingNetwork, PromptMLP
from decoders.language_model import (
    BASE_LAYER,
    EXTRA,
    GPT2,
    build_language_model,
    choose_language_model,
    describe_language_model,
    fetch_language_model,
    fingerprint,
    fit_stored,
    stored_state,
    width_of,
)
from decoders.tokenizers import LanguageTokenizer
from patchioner.base.errors import CheckpointError, OptionError
from patchioner.base.optional import require
from patchioner.base.weights import load_weights

Mapper = Literal["mlp", "transformer"]
Tune = Literal["frozen", "lora", "full"]
_LORA = "lora_"


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

    TYPE, MODEL, MAPPER = "prefix_lm", "language_model", "mapper"
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
        self.reference = reference
        self._fingerprint = None if reference is None else fingerprint(model)
        mapper, prefix = _mapper(config, width_of(model), seed), config.prompt_tokens
        super().__init__(model, mapper, tokenizer, config, prefix_tokens=prefix)
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

    def _save_more(self, folder: Path) -> dict[str, Any]:
        if self.reference is None:
            return {"language_model": {"config": describe_language_model(self.model)}}
        kept = {"reference": self.reference, "fingerprint": self._fingerprint}
        return {"language_model": kept}

    @classmethod
    def from_config(cls, config: dict[str, Any], folder: Path) -> Self:
        """Read what `save` wrote, strictly; HubError where a referred language model cannot be had."""
        settings, path = dict(config), folder / CONFIG_FILE
        with reading(path):
            place = settings.pop("language_model")
            settings["lora_targets"] = tuple(settings.get("lora_targets", ()))
            model = _model_at(place, path)
            tokenizer = cls._tokenizer(settings, folder, model)
            shape, reference = PrefixLMConfig(**settings), place.get("reference")
            decoder = cls(model, tokenizer, shape, reference=reference)
        decoder._fit(folder / WEIGHTS_FILE)
        return decoder

    def _stored(self) -> dict[str, Tensor]:
        whole = {_in_file(name): tensor for name, tensor in stored_state(self.network).items()}
        return {name: tensor for name, tensor in whole.items() if not self._is_elsewhere(name)}

    def _fit(self, path: Path) -> None:
        """Load the file; what it leaves out is the language model that it refers to, and is there."""
        state, own = load_weights(path), stored_state(self.network)
        if any(map(self._is_elsewhere, state)):
            wrong = f"{path} holds a language model that config.json refers to elsewhere"
            raise CheckpointError(f"{wrong}; fetch the checkpoint again")
        names = {_in_file(name): name for name in own}
        held = {name: tensor for name, tensor in own.items() if self._is_elsewhere(_in_file(name))}
        held |= {names.get(name, name): tensor for name, tensor in state.items()}
        fit_stored(self.network, held, source=str(path))

    def _is_elsewhere(self, name: str) -> bool:
        """Whether a weight, by its name in files, is one of a language model that is only referred to."""
        return self.reference is not None and name.startswith(f"{self.MODEL}.")


def _in_file(name: str) -> str:
    """The name that a weight of the network has in files: LoRA matrices stand apart and move no layer."""
    if _LORA in name:
        return name.replace(PrefixLMDecoder.MODEL, "lora", 1)
    return name.replace(BASE_LAYER, "")


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


def _model_at(place: Any, path: Path) -> nn.Module:
    """The language model of a checkpoint, without LoRA: built anew, or fetched from where it is referred to."""
    if not isinstance(place, dict) or not {"config", "reference"} & place.keys():
        raise CheckpointError(f"{path}: language_model must have a config or a reference")
    if "config" in place:
        return build_language_model(place["config"])
    model, _ = fetch_language_model(place["reference"])
    if fingerprint(model) != place.get("fingerprint"):
        raise CheckpointError(
            f"{place['reference']!r} is not the language model that this decoder was trained with; fetch "
            "the same version again"
        )
    return model
