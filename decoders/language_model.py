"""Language models: where they come from, what describes them, and how files hold their weights.

GPT-2 is our own network; every other is one of `transformers`. Nothing is unpickled, no code comes with a model.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from decoders.gpt2 import GPT2
from decoders.tokenizers import LanguageTokenizer
from patchioner.base.errors import CheckpointError, OptionError, first_line
from patchioner.base.optional import read_pretrained, require
from patchioner.base.weights import fit_weights

# Where a model was read from and with what: of no use to who reads the checkpoint.
_PRIVATE = ("_name_or_path", "transformers_version", "_commit_hash", "dtype", "torch_dtype")
# GPT-2 keeps these the other way round in all files.
_TURNED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
_NO_LIMIT = 1_000_000  # positions of a model that has no table of them


def fetch_language_model(source: str) -> tuple[nn.Module, LanguageTokenizer]:
    """Read a causal language model and its tokenizer by hub id or folder, in float32 on the CPU.

    HubError: it cannot be had, or has no safetensors weights; OptionError: no causal language model of text, or no fast
    tokenizer; MissingExtraError: without the extra `language-models`.
    """
    tokenizer, model = read_pretrained(source, "AutoTokenizer", "AutoModelForCausalLM", dtype=torch.float32)
    config = describe_language_model(model)
    if GPT2.understands(config):
        own = GPT2(config)
        fit_stored(own, untied_state(model), source=source)
        model = own
    tokenizer = LanguageTokenizer.of_transformers(tokenizer, vocab_size=table_shape(model)[0])
    return model.eval(), tokenizer


def build_language_model(config: Mapping[str, Any], *, seed: int = 0) -> nn.Module:
    """A causal language model with random weights: our own GPT-2, or any type that `transformers` has.

    `config` has "model_type" ("gpt2", "llama" ...) and that type's settings; CheckpointError where it makes no sense.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("model_type"), str):
        raise CheckpointError(f'the language_model is {config!r}; it must name its model_type ("gpt2" ...)')
    kind = config["model_type"]
    try:
        if GPT2.understands(config):
            return GPT2(config, seed=seed).eval()
        transformers = require("transformers", "language-models")
        made = transformers.AutoConfig.for_model(**config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"no causal language model can be built of type {kind!r}: {first_line(error)}") from error
    built: nn.Module = model.eval()
    return built


def describe_language_model(model: nn.Module) -> dict[str, Any]:
    """The JSON values that `build_language_model` makes the same architecture of."""
    config: Any = model.config
    values = config if isinstance(model, GPT2) else json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in values.items() if key not in _PRIVATE}


def stored_state(module: nn.Module) -> dict[str, Tensor]:
    """A state dict as files have it: tied weights under one name, GPT-2's matrices the way `transformers` has them."""
    return turned(module, untied_state(module))


def fit_stored(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load what `stored_state` gave, strictly; second names of tied weights may be there or not.

    CheckpointError for names or shapes that do not fit, or two names of one tensor that hold different values.
    """
    full, wanted = turned(module, state), module.state_dict().keys()
    names = _aliases(module)
    if any(isinstance(part, GPT2) for part in module.modules()):
        heads = [name for name in full if name.endswith("lm_head.weight")]
        names |= {name: name.replace("lm_head", "transformer.wte") for name in heads}
    for alias, name in names.items():
        found = [full.pop(one) for one in (alias, name) if one in full]
        if len(found) == 2 and found[0].shape == found[1].shape and not torch.equal(*found):
            raise CheckpointError(f"{alias} and {name} differ, but are one tensor: a file of another architecture")
        full |= {one: found[-1] for one in (alias, name) if found and one in wanted}
    fit_weights(module, full, source=source)


def untied_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with every tensor under one name: tied weights are not stored twice."""
    aliases = _aliases(module)
    return {name: tensor for name, tensor in module.state_dict().items() if name not in aliases}


def _aliases(module: nn.Module) -> dict[str, str]:
    """Second name -> first name, of parameters that are one and the same."""
    named = list(module.named_parameters(remove_duplicate=False))
    first = {id(parameter): name for name, parameter in reversed(named)}
    return {name: first[id(parameter)] for name, parameter in named if name != first[id(parameter)]}


def turned(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a module with the matrices of its `GPT2`s transposed: from ours to files' orientation, and back."""
    paths = [path for path, part in module.named_modules() if isinstance(part, GPT2)]
    roots = tuple(f"{path}.transformer.h.".removeprefix(".") for path in paths)
    return {name: one.T if name.startswith(roots) and name.endswith(_TURNED) else one for name, one in state.items()}


def table_shape(model: nn.Module) -> tuple[int, int]:
    """Number of tokens that the model knows, and width of its input vectors."""
    words: Any = model
    tokens, width = words.get_input_embeddings().weight.shape
    return int(tokens), int(width)


@dataclass
class _Cache:
    """What a model of `transformers` has read of each row."""

    past: Any  # keys and values; None for a model that gives none
    keyword: str  # by which `transformers` gives `past` back and takes it
    inputs: Tensor | None  # (rows, places, width), all that was read, where there is no `past`
    padding: Tensor | None  # (rows,) int64
    length: int  # places read

    def select(self, rows: Tensor) -> None:
        if self.past is not None:
            self.past.reorder_cache(rows)
        self.inputs = None if self.inputs is None else self.inputs[rows]
        self.padding = None if self.padding is None else self.padding[rows]


class TransformersModel:
    """A causal language model of `transformers` with the interface of `GPT2`; its states are its logits.

    A model that gives no cache is read anew at each step. `check` tries what is relied on.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        accepted = inspect.signature(model.forward).parameters
        self._extras = [name for name in ("position_ids", "logits_to_keep") if name in accepted]

    def check(self) -> None:
        """Padding must not change a row, reading on must equal reading anew; else OptionError."""
        fault = "minds padding or its own cache"
        try:
            if self._sound():
                return
        except (TypeError, AttributeError) as error:
            fault = f"is no causal language model that reads input vectors ({error})"
        raise OptionError(f"{type(self.model).__name__} {fault}; choose a causal transformer (GPT-2, Llama ...)")

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return table_shape(self.model)[0]

    def logits(self, states: Tensor) -> Tensor:
        """The states: the last layer may be more than a product, so it stays inside the model."""
        return states

    @property
    def max_places(self) -> int:
        """Longest sequence that the model can read; a million where it has no limit of its own."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else _NO_LIMIT

    def get_input_embeddings(self) -> Any:
        """The word vectors."""
        return self.model.get_input_embeddings()

    def row_bytes(self, places: int) -> int:
        """Memory that one row of a batch needs while decoding, of so many places in all."""
        config = self.model.config.get_text_config()
        heads = int(config.num_attention_heads)
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        keys = (getattr(config, "num_key_value_heads", None) or heads) * int(head)
        size = self.model.get_input_embeddings().weight.element_size()
        # Twice, because a cache that grows is copied.
        cache = 2 * 2 * int(config.num_hidden_layers) * keys * places * size
        return int(cache + table_shape(self.model)[0] * (size + 8))

    def read(self, inputs: Tensor, padding: Tensor | None, max_tokens: int) -> tuple[Tensor, _Cache]:
        """As `GPT2.read`: float32 logits (n, vocab) of the first token."""
        out = self._call(inputs.shape[1], 0, padding, keep=1, inputs_embeds=inputs, use_cache=True)
        keyword = next((name for name, value in out.items() if hasattr(value, "reorder_cache")), "")
        kept = None if keyword else inputs
        return out.logits[:, -1].float(), _Cache(out.get(keyword), keyword, kept, padding, inputs.shape[1])

    def step(self, tokens: Tensor, cache: _Cache) -> Tensor:
        """Read one more token (n,) of each row; float32 logits (n, vocab) of the next."""
        cache.length += 1
        if cache.inputs is not None:
            words = self.model.get_input_embeddings()(tokens[:, None])
            cache.inputs = torch.cat([cache.inputs, words], dim=1)
            return self.read(cache.inputs, cache.padding, 1)[0]
        past = {cache.keyword: cache.past, "use_cache": True, "input_ids": tokens[:, None]}
        out = self._call(1, cache.length - 1, cache.padding, keep=1, **past)
        cache.past = out[cache.keyword]
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def logits_at(self, inputs: Tensor, padding: Tensor | None, real: Tensor) -> Tensor:
        """As `GPT2.logits_at`."""
        count = real.shape[1]
        out = self._call(inputs.shape[1], 0, padding, keep=count, inputs_embeds=inputs, use_cache=False)
        logits: Tensor = out.logits[:, -count:][real]
        return logits

    def _call(self, count: int, first: int, padding: Tensor | None, *, keep: int, **inputs: Any) -> Any:
        """The model's output for `count` places after the `first` that it has read."""
        rows = inputs["inputs_embeds" if "inputs_embeds" in inputs else "input_ids"]
        pad = torch.zeros(len(rows), device=rows.device).long() if padding is None else padding
        places = torch.arange(first + count, device=rows.device)
        mask = None if padding is None else (places >= pad[:, None]).long()
        positions = (places[first:] - pad[:, None]).clamp(min=0)
        extra = {"position_ids": positions, "logits_to_keep": keep}
        inputs |= {name: extra[name] for name in self._extras}
        return self.model(**inputs, attention_mask=mask, return_dict=True)

    @torch.inference_mode()
    def _sound(self) -> bool:
        """Whether a padded row reads as it does alone, and a step with the cache as one without."""
        words = self.model.get_input_embeddings()
        ids = torch.arange(3, device=words.weight.device) % table_shape(self.model)[0]
        vectors = words(ids)
        together, cache = self.read(*pad_left([vectors[1:2], vectors[:2]]), 2)
        alone = self.read(vectors[None, 1:2], None, 1)[0]
        cached = self.step(ids[2:].expand(2), cache)
        anew = self.read(*pad_left([vectors[1:], vectors]), 1)[0]
        return all(
            bool((one - other).abs().max() <= 0.05 * other.abs().max().clamp(min=1e-6))
            for one, other in ((together[:1], alone), (cached, anew))
        )


def pad_left(prefixes: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Rows of (p_i, width) as one (n, p, width), zeros before the shorter ones, and how many (n,); None if none."""
    longest = max(len(prefix) for prefix in prefixes)
    padding = [longest - len(prefix) for prefix in prefixes]
    rows = zip(prefixes, padding, strict=True)
    inputs = torch.stack([functional.pad(prefix, (0, 0, more, 0)) for prefix, more in rows])
    return inputs, torch.tensor(padding, device=inputs.device) if any(padding) else None
