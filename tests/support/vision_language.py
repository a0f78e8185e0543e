"""Tiny image-text-to-text models of `transformers` with random weights, as folders: no download."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from tests.support.language import END, raw_tokenizer, spread

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SIDE, PATCH = 28, 14
SMALL = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)


def _tokenizer(*marks: str) -> Any:
    fast: Any = import_module("transformers").PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=raw_tokenizer(), eos_token=END)
    special = {"additional_special_tokens": ["<image>", *marks], "pad_token": "<pad>"}
    tokenizer.add_special_tokens(special)
    return tokenizer


def _saved(kind: Any, config: Any, place: Path, seed: int) -> None:
    """A model of random weights, large enough that what it says differs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config).eval()
    spread(model, 4.0)
    model.save_pretrained(place)


def qwen2_vl_folder(place: Path, *, seed: int = 3) -> Path:
    """Qwen2-VL: as many picture tokens as the picture has, so that the rows of a batch differ in length."""
    transformers: Any = import_module("transformers")
    tokenizer = _tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    marks = {"image": "image_pad", "video": "video_pad"}
    marks |= {name: name for name in ("vision_start", "vision_end")}
    numbers = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{mark}|>") for name, mark in marks.items()
    }  # fmt: skip
    text = {
        **SMALL, "vocab_size": len(tokenizer), "num_key_value_heads": 2, "max_position_embeddings": 1024,
        "bos_token_id": 0, "eos_token_id": 0,
        "rope_parameters": {"rope_type": "default", "type": "mrope", "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {
        "depth": 1, "embed_dim": 32, "num_heads": 4, "hidden_size": 32, "mlp_ratio": 2, "patch_size": PATCH,
        "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    config = transformers.Qwen2VLConfig(vision_config=vision, text_config=text, **numbers)
    _saved(transformers.Qwen2VLForConditionalGeneration, config, place, seed)
    limits = {"min_pixels": 28 * 28, "max_pixels": 28 * 28 * 8, "patch_size": PATCH}
    image = transformers.Qwen2VLImageProcessor(**limits)
    video = transformers.Qwen2VLVideoProcessor(**limits)
    template = TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
    processor = transformers.Qwen2VLProcessor(image, tokenizer, video, chat_template=template)
    processor.save_pretrained(place)
    return place


def blip2_folder(place: Path, *, seed: int = 3) -> Path:
    """BLIP-2: a Q-Former ahead of OPT, no chat template, and a processor that puts in the picture's tokens itself."""
    transformers: Any = import_module("transformers")
    tokenizer = _tokenizer()
    text = {
        "model_type": "opt", "vocab_size": len(tokenizer), "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 1024,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = transformers.Blip2Config(
        vision_config={**SMALL, "image_size": SIDE, "patch_size": PATCH},
        qformer_config={**SMALL, "vocab_size": len(tokenizer), "encoder_hidden_size": 32},
        text_config=text,
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    _saved(transformers.Blip2ForConditionalGeneration, config, place, seed)
    pictures = transformers.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    transformers.Blip2Processor(pictures, tokenizer, num_query_tokens=4).save_pretrained(place)
    return place
