"""Folders in the layout of the published Patch-ioner models, small and random, written from the facts about them."""

import json
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml
from torch import Tensor

VOCABULARY = 50257
SHA = "0123456789abcdef0123456789abcdef01234567"
POSITIONS = 256  # of the tiny GPT-2: room for prompts and 64 tokens
DIM = 64  # of `tests.support.tiny.tiny_backbone`
CAPTIONS = (
    "a red bus on a street", "two dogs play in the snow", "café au lait ☕ on a table", "a person rides a wave",
    "a bowl of fruit", "an airplane above the clouds",
)  # fmt: skip


def randoms(seed: int) -> Any:
    """A function that draws shapes from one seed."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    return draw


def decap_state(*, prefix: int = DIM, width: int = 16) -> OrderedDict[str, Tensor]:
    """A DeCap state dict as spec 2.4 lists it, in GPT-2's transposed layout; weights spread so that captions vary."""
    draw = randoms(0)
    state = _gpt2("decoder.", draw, width, 40, VOCABULARY)
    state["clip_project.model.0.weight"] = draw(width, prefix, scale=0.5)
    state["clip_project.model.0.bias"] = draw(width, scale=0.5)
    return state


def _gpt2(name: str, draw: Any, width: int, positions: int, vocabulary: int) -> OrderedDict[str, Tensor]:
    body, state = f"{name}transformer.", OrderedDict[str, Tensor]()
    state[body + "wte.weight"] = draw(vocabulary, width, scale=0.5)
    state[body + "wpe.weight"] = draw(positions, width, scale=0.5)
    for layer in range(2):
        state |= _gpt2_layer(f"{body}h.{layer}.", width, draw)
    state |= _affine(body + "ln_f", width, draw)
    state[name + "lm_head.weight"] = state[body + "wte.weight"]
    return state


def _affine(name: str, width: int, draw: Any) -> dict[str, Tensor]:
    weight = 1 + draw(width, scale=0.2)
    return {f"{name}.weight": weight, f"{name}.bias": draw(width, scale=0.2)}


def _gpt2_layer(name: str, width: int, draw: Any) -> dict[str, Tensor]:
    shapes = {
        "attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width),
        "mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width),
    }  # fmt: skip
    state = _affine(f"{name}ln_1", width, draw) | _affine(f"{name}ln_2", width, draw)
    for part, shape in shapes.items():
        state[f"{name}{part}.weight"] = draw(*shape, scale=shape[0] ** -0.5)
        state[f"{name}{part}.bias"] = draw(shape[1], scale=0.2)
    return state


def old_style(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The same as distributed training and old libraries left it: `module.` prefixes, buffers of causal masks."""
    found = dict(state)
    for layer in range(2):
        attention = f"decoder.transformer.h.{layer}.attn."
        found[attention + "bias"] = torch.ones(1, 1, 40, 40, dtype=torch.bool).tril()
        found[attention + "masked_bias"] = torch.tensor(-1e4)
    return OrderedDict((f"module.{name}", tensor) for name, tensor in found.items())


def write_bank(path: Path, embeddings: Tensor, texts: Sequence[str], size: int, **how: Any) -> None:
    """An HDF5 bank as spec 2.3 has it: `size` rows, of which the unfilled rest is zero and has empty texts."""
    rows = np.zeros((size, embeddings.shape[1]), dtype=np.float32)
    rows[: len(embeddings)] = embeddings.numpy()
    with h5py.File(path, "w") as file:
        file.create_dataset("coco-embeddings", data=rows, **how)
        utf8 = h5py.string_dtype(encoding="utf-8")
        file.create_dataset("coco-text", (size,), dtype=utf8)[: len(texts)] = list(texts)


def write_config(folder: Path, name: str = "config.yaml", /, **values: Any) -> Path:
    """A config.yaml: the keys of the shipped DeCap config, changed by `values` (None leaves a key out)."""
    keys: dict[str, Any] = {
        "decap_weights": "/raid/somebody/weights/decap_talk2dino-009.pt", "prefix_size": DIM,
        "support_memory_size": 12, "projection_type": "coco", "dino_model": "dinov2_vitb14_reg",
        "normalize": True, "kkv_attention": False, "resize_dim": 518, "crop_dim": 518,
    }  # fmt: skip
    kept = {key: value for key, value in (keys | values).items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(kept), encoding="utf-8")
    return folder


def memory(rows: int = 10, *, dim: int = DIM, seed: int = 5) -> tuple[Tensor, list[str]]:
    """Bank rows whose lengths differ, and their texts."""
    draw = randoms(seed)
    embeddings = draw(rows, dim) * (0.5 + draw(rows, 1).abs())
    return embeddings, [f"{CAPTIONS[i % len(CAPTIONS)]} {i}" for i in range(rows)]


BANK_FILE = "coco_captions_text_embeddings-B16-ViT-B.16-12.h5"


def write_decap(folder: Path, state: Mapping[str, Tensor] | None = None, **config: Any) -> Path:
    """A DeCap folder of the hub's layout: config, decoder, bank with two zero rows."""
    write_capdec(folder, state, **{"support_memory_size": 12, **config})
    write_bank(folder / BANK_FILE, *memory(), size=12)
    return folder


def write_capdec(folder: Path, state: Mapping[str, Tensor] | None = None, **config: Any) -> Path:
    """A CapDec folder: the same decoder, no memory."""
    write_config(folder, **{"support_memory_size": 0, **config})
    torch.save(OrderedDict(state or decap_state()), folder / "decap_talk2dino-009.pt")
    return folder


def viecap_state(*, vocabulary: int, width: int = 32, prompts: int = 3) -> dict[str, Tensor]:
    """A ViECap state dict as spec 2.6 lists it: two layers each in the mapping network and in GPT-2."""
    draw, mapping = randoms(1), "mapping_network."
    state: dict[str, Tensor] = {
        mapping + "linear.weight": draw(prompts * width, DIM, scale=DIM**-0.5),
        mapping + "linear.bias": draw(prompts * width, scale=0.2),
        mapping + "prefix_const": draw(prompts, width),
    }
    shapes = {
        "attn.to_queries.weight": (width, width), "attn.to_keys_values.weight": (2 * width, width),
        "attn.project.weight": (width, width), "mlp.fc1.weight": (2 * width, width),
        "mlp.fc2.weight": (width, 2 * width),
    }  # fmt: skip
    for layer in range(2):
        name = f"{mapping}transformer.layers.{layer}."
        state |= _affine(name + "norm1", width, draw) | _affine(name + "norm2", width, draw)
        for part, shape in shapes.items():
            state[name + part] = draw(*shape, scale=shape[1] ** -0.5)
            if "to_" not in part:
                state[name + part.replace("weight", "bias")] = draw(shape[0], scale=0.2)
    return state | _gpt2("gpt.", draw, width, POSITIONS, vocabulary)


def talk2dino_state(dim: int, text: int = 512, width: int | None = None) -> dict[str, Tensor]:
    """A Talk2DINO projection (spec 2.5), `width` between its layers, else `dim`, by the newer names."""
    draw, inner = randoms(3), width or dim
    state = {"linear_layer.weight": draw(inner, text, scale=0.06)}
    state |= {"linear_layer.bias": draw(inner, scale=0.06)}
    state |= {"hidden_layers.0.weight": draw(dim, inner, scale=0.04)}
    return {**state, "hidden_layers.0.bias": draw(dim, scale=0.04)}


def official_dinov2(vit: Any) -> OrderedDict[str, Tensor]:
    """The state of timm's DINOv2 under the names of its authors' files."""
    state = OrderedDict((name, tensor.clone()) for name, tensor in vit.state_dict().items())
    state["mask_token"] = torch.zeros(1, vit.embed_dim)
    if "reg_token" in state:  # timm folds the CLS token's position into the token
        state["register_tokens"] = state.pop("reg_token")
        whole = torch.full_like(state["cls_token"], 0.01)
        state["cls_token"] = state["cls_token"] - whole
        state["pos_embed"] = torch.cat([whole, state["pos_embed"]], dim=1)
    return state


def as_hub_snapshot(folder: Path, cache: Path, hub_id: str) -> Path:
    """Put a folder where huggingface_hub's cache would keep that repository; give back the snapshot."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / SHA
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(SHA)
    return snapshot


def write_language_model(folder: Path) -> int:
    """A folder "gpt2" with a tiny configuration and tokenizer as transformers writes them; its number of tokens."""
    from transformers import AutoConfig, PreTrainedTokenizerFast

    from tests.support.language import END, language_config, raw_tokenizer

    kind: Any = PreTrainedTokenizerFast
    tokenizer = kind(tokenizer_object=raw_tokenizer(), eos_token=END)
    tokenizer.save_pretrained(folder / "gpt2")
    config = language_config(n_positions=POSITIONS)
    AutoConfig.for_model(config.pop("model_type"), **config).save_pretrained(folder / "gpt2")
    return int(config["vocab_size"])


def write_viecap(folder: Path, *, changes: Mapping[str, Any] | None = None, **config: Any) -> Path:
    """A ViECap folder: config, decoder, COCO vocabulary as the published pickle, the language model's folder."""
    viecap = {
        "language_model": "gpt2", "continuous_prompt_length": 3, "clip_project_length": 3, "clip_hidden_size": DIM,
        "suffix": "ViT-B16_t2d_", "name_of_entities_text": "coco_entities", "prompt_ensemble": True,
        "threshold": 0.05, "using_hard_prompt": True, "soft_prompt_first": True, "using_greedy_search": True,
        "project_length": 10, "weight_path": "/raid/somebody/viecap/coco_prefix-0014.pt", **(changes or {}),
    }  # fmt: skip
    write_config(folder, viecap=viecap, support_memory_size=0, decap_weights=None, **config)
    vocabulary = write_language_model(folder)
    state = viecap_state(vocabulary=vocabulary)
    torch.save(state, folder / "coco_prefix-0014.pt")
    rows = torch.nn.functional.normalize(randoms(8)(80, DIM), dim=1)
    with (folder / "coco_embeddings_ViT-B16_t2d__with_ensemble.pickle").open("wb") as file:
        pickle.dump(rows, file)
    return folder


MEACAP = {"memory_caption_num": 5, "memory_id": "coco", "memory_base_path": "/raid/somebody/memory"}
MEMORY_CAPTIONS = tuple(
    f"a {colour} {thing} on a {place}"
    for thing in ("bus", "dog", "boat")
    for place in ("street", "beach")
    for colour in ("red", "small", "red", "red")
)


def write_meacap(folder: Path, **config: Any) -> Path:
    """A MeaCap folder: ViECap's, and memory/coco/ with captions and their embeddings."""
    write_viecap(folder, changes={"meacap": MEACAP}, **config)
    memory_folder = folder / "memory" / "coco"
    memory_folder.mkdir(parents=True)
    (memory_folder / "memory_captions.json").write_text(json.dumps(MEMORY_CAPTIONS))
    rows = randoms(6)(len(MEMORY_CAPTIONS), DIM)
    torch.save(rows, memory_folder / "memory_clip_embeddings.pt")
    torch.save(rows[:, :8], memory_folder / "memory_wte_embeddings.pt")
    return folder
