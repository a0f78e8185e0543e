"""The baseline: the same captions, computed the way the published system computes them.

Knows: the facts of that way (which work is done how often), one module for each part. Does NOT know clocks, nor any
fast path of ours: it takes our weights and nothing else, so it is the plain, slow twin of the whole engine.

Written from facts about the published Patch-ioner, in plain torch. Followed:

* one backbone pass for an image; the attention of its last block's CLS token, per head and averaged, always computed,
  the (1, 16, patches, width) product of maps and tokens included;
* a Python loop over boxes, corners floored to whole patches;
* regions in chunks of four, as the published evaluation sends them;
* for each chunk the whole memory bank is normalised into a copy, all similarities stand in memory, and so does their
  softmax;
* for each chunk 30 decoding steps, whatever has ended, all positions read again at each, logits at all positions, a
  softmax over the vocabulary before the argmax; the text is cut at the end token.

Left out, in the baseline's favour: the extra caption of the CLS token that the published `forward` writes by default,
the key-value cache that its GPT-2 fills and never reads, scores, and attention without a fused kernel (here torch's
fused one is used in backbone and decoder).

Example:
    >>> naive = NaiveCaptioner(backbone, raw_rows, decoder)  # doctest: +SKIP
    >>> naive.caption(photo, [Box(10, 20, 200, 220)])[0].text  # doctest: +SKIP
    'a cat sitting on a chair'
"""

from __future__ import annotations

from benchmarks.naive.captioner import CHUNK, NaiveCaption, NaiveCaptioner
from benchmarks.naive.decoding import STEPS, NaiveDecoder
from benchmarks.naive.projection import project

__all__ = ["CHUNK", "STEPS", "NaiveCaption", "NaiveCaptioner", "NaiveDecoder", "project"]
