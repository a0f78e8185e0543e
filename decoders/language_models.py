"""Causal language models of `transformers`: made from a name, a folder or a configuration.

Knows: how they are fetched, built and described in JSON, and which of their weights are one tensor under two names.
Does NOT know: embeddings, prompts, decoding.

Nothing is unpickled: weights are read from safetensors only, and no code comes with a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from decoders.language_tokenizer import LanguageTokenizer
from patchioner.base.errors import CheckpointError, HubError, OptionError
from patchioner.base.optional import require

EXTRA = "language-models"
# Where a model was read from and with what: of no use to who reads the checkpoint.
_PRIVATE = ("_name_or_path", "transformers_version", "_commit_hash", "dtype", "torch_dtype")


def fetch_language_model(source: str) -> tuple[nn.Module, LanguageTokenizer]:
    """Read a causal language model and its tokenizer, in float32 on the CPU.

    Args:
        source: an id of the Hugging Face hub ("gpt2", "facebook/opt-125m") or a folder. `HF_HUB_OFFLINE=1` reads the
            hub's cache alone.

    Raises:
        HubError: it cannot be had, or has no safetensors weights.
        OptionError: no causal language model of text, or no fast tokenizer.
        MissingExtraError: without the extra `language-models`.

    Example:
        >>> model, tokenizer = fetch_language_model("gpt2")  # doctest: +SKIP
    """
    transformers = require("transformers", EXTRA)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except OSError as error:
        raise HubError(
            f"the language model {source!r} cannot be read: {_first_line(error)}; give the id of a model with "
            "safetensors weights, or a folder that holds one"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError(
            f"{source!r} is no causal language model that transformers can build: {_first_line(error)}"
        ) from error
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    return model.eval(), LanguageTokenizer.of_transformers(tokenizer, vocab_size=vocabulary)


def build_language_model(config: Mapping[str, Any], *, seed: int = 0) -> nn.Module:
    """A causal language model with random weights, of any type that `transformers` has.

    Args:
        config: JSON values; "model_type" ("gpt2", "llama", "opt" ...) and that type's settings.
        seed: of the weights.

    Raises:
        CheckpointError: a configuration that names no such type, or makes no sense.

    Example:
        >>> build_language_model({"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1})  # doctest: +SKIP
    """
    transformers = require("transformers", EXTRA)
    if not isinstance(config, Mapping) or not isinstance(config.get("model_type"), str):
        raise CheckpointError(
            f'the language model\'s configuration is {config!r}; it must name its model_type ("gpt2" ...)'
        )
    settings = {key: value for key, value in config.items() if key != "model_type"}
    try:
        made = transformers.AutoConfig.for_model(config["model_type"], **settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"no causal language model can be built from the configuration of type "
            f"{config.get('model_type')!r}: {_first_line(error)}"
        ) from error
    built: nn.Module = model.eval()
    return built


def choose_language_model(
    given: str | Mapping[str, Any], tokenizer: LanguageTokenizer | None, *, seed: int
) -> tuple[nn.Module, LanguageTokenizer]:
    """A language model as a caller may name it: trained by its id or folder, or random from a configuration.

    Args:
        given: see `fetch_language_model` and `build_language_model`.
        tokenizer: takes the place of the model's own; needed with a configuration.
        seed: of random weights.

    Raises:
        OptionError: a configuration without a tokenizer; and as the two functions.
    """
    if isinstance(given, str):
        model, own = fetch_language_model(given)
        return model, tokenizer or own
    if tokenizer is None:
        raise OptionError("a language model made from a configuration needs a tokenizer; give one")
    return build_language_model(given, seed=seed), tokenizer


def describe_language_model(model: nn.Module) -> dict[str, Any]:
    """The JSON values that `build_language_model` makes the same architecture of."""
    config: Any = model.config
    values = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in values.items() if key not in _PRIVATE}


def fingerprint(model: nn.Module) -> str:
    """Sha256 (hex) of names, shapes and the first thousand values of every tensor: tells one model from another.

    Cheap on purpose: reading all values of a large model would take longer than loading it.
    """
    total = hashlib.sha256()
    for name, tensor in sorted(untied_state(model).items()):
        head = tensor.detach().flatten()[:1000].cpu().float().contiguous()
        total.update(f"{name} {tuple(tensor.shape)}\n".encode())
        total.update(head.numpy().data)
    return total.hexdigest()


def untied_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with every tensor under one name: tied weights (input and output words) are not stored twice."""
    aliases = _aliases(module)
    return {name: tensor for name, tensor in module.state_dict().items() if name not in aliases}


def tied_state(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A stored state with the second names of tied weights, which `fit_weights` asks for, put back.

    Second names that the state has itself (other people's files) are kept, once found equal.

    Raises:
        CheckpointError: two names of one tensor hold different values.
    """
    full = dict(state)
    for alias, name in _aliases(module).items():
        if alias in full and name in full:
            if full[alias].shape == full[name].shape and not torch.equal(full[alias], full[name]):
                raise CheckpointError(
                    f"{alias} and {name} differ, but the network has one tensor for both; the file is "
                    "of another architecture"
                )
        elif name in full:
            full[alias] = full[name]
        elif alias in full:
            full[name] = full[alias]
    return full


def _aliases(module: nn.Module) -> dict[str, str]:
    """Second name -> first name, of parameters that are one and the same."""
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            aliases[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
    return aliases


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
