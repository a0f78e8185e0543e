"""Embeddings in, captions out: networks, tokenizers, the generate loop, text-only training.

Knows vectors and text: no images, regions or memory banks.
"""

from __future__ import annotations

from decoders.base import DECODERS, Decoded, DecodeOptions, Decoder, TrainableDecoder, load_decoder
from decoders.gpt2 import PrefixGPT2Decoder
from decoders.tokenizers import CaptionTokenizer
from decoders.train import TrainOptions, TrainReport, train_decoder

__all__ = [
    "DECODERS",
    "CaptionTokenizer",
    "DecodeOptions",
    "Decoded",
    "Decoder",
    "PrefixGPT2Decoder",
    "TrainOptions",
    "TrainReport",
    "TrainableDecoder",
    "load_decoder",
    "train_decoder",
]
