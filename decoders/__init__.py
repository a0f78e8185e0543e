"""Embeddings in, captions out: networks, tokenizers, the generate engine, text-only training.

Knows: vectors and text. Does NOT know: images, regions, memory banks.
"""

from __future__ import annotations

from decoders.base import DECODERS, Decoder
from decoders.loading import load_decoder
from decoders.options import Decoded, DecodeOptions
from decoders.prefix_gpt2 import PrefixGPT2Decoder
from decoders.tokenizer import CaptionTokenizer
from decoders.train_options import TrainOptions
from decoders.training import TrainReport, train_decoder

__all__ = [
    "DECODERS",
    "CaptionTokenizer",
    "DecodeOptions",
    "Decoded",
    "Decoder",
    "PrefixGPT2Decoder",
    "TrainOptions",
    "TrainReport",
    "load_decoder",
    "train_decoder",
]
