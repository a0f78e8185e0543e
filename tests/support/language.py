"""Tiny language models with random weights, and a tokenizer made on the spot: no download."""

from importlib import import_module
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers import decoders as bpe_decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import nn

from decoders import language_model as language
from decoders.gpt2 import GPT2
from decoders.tokenizers import LanguageTokenizer
from tests.support import spread as spread

END = "<|endoftext|>"
SENTENCES = [
    f"There are {thing}, {other} in image. a {colour} {thing} near a {other}."
    for colour in ("red", "blue", "green")
    for thing in ("cat", "dog", "bus", "kite")
    for other in ("boat", "chair")
]


def raw_tokenizer(vocab_size: int = 320) -> Tokenizer:
    """A byte-level BPE of GPT-2's form."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = bpe_decoders.ByteLevel()
    how: dict[str, Any] = {"vocab_size": vocab_size, "special_tokens": [END]}
    how |= {"show_progress": False, "initial_alphabet": ByteLevel.alphabet()}
    tokenizer.train_from_iterator(SENTENCES, BpeTrainer(**how))
    return tokenizer


def language_tokenizer() -> LanguageTokenizer:
    return LanguageTokenizer(raw_tokenizer())


def language_config(kind: str = "gpt2", **settings: Any) -> dict[str, Any]:
    """Two layers, 32 wide, for the tokenizer above."""
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    common = {"vocab_size": language_tokenizer().vocab_size, **ends}
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape["max_position_embeddings"] = 128
    llama_like = {**shape, "intermediate_size": 48, "num_key_value_heads": 2}
    own: dict[str, dict[str, Any]] = {
        "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 128},
        "opt": {**shape, "ffn_dim": 48, "word_embed_proj_dim": 16},
        "llama": llama_like,
        "qwen2": llama_like,
        "mistral": {**llama_like, "sliding_window": 6},
    }
    return {"model_type": kind, **common, **own[kind], **settings}


def language_model(kind: str = "gpt2", *, seed: int = 0, **settings: Any) -> nn.Module:
    return language.build_language_model(language_config(kind, **settings), seed=seed)


def transformers_twin(model: nn.Module) -> Any:
    """The same weights in the network of `transformers`; that network itself where it is one."""
    if not isinstance(model, GPT2):
        return model
    transformers: Any = import_module("transformers")
    config = transformers.GPT2Config(**language.describe_language_model(model))
    twin = transformers.GPT2LMHeadModel(config)
    language.fit_stored(twin, language.stored_state(model), source="memory")
    return twin.eval()


def language_folder(place: Path, *, seed: int = 5) -> Path:
    """A language model and its tokenizer as `transformers` itself writes them."""
    transformers: Any = import_module("transformers")
    transformers_twin(language_model(seed=seed)).save_pretrained(place)
    fast = transformers.PreTrainedTokenizerFast
    fast(tokenizer_object=raw_tokenizer(), eos_token=END).save_pretrained(place)
    return place
