"""A vocabulary whose tokens are given texts."""

from __future__ import annotations

import torch

from decoders import DecodeOptions
from decoders.head import Constraints


class Letters:
    """A vocabulary whose tokens are given texts; 0 ends, 1 is unwritable."""

    def __init__(self, *texts: str) -> None:
        self.texts = ["", "", *texts]
        self.end_ids, self.unwritable_ids = (0,), (1,)

    def token_texts(self) -> list[str]:
        return self.texts

    def decode(self, token_ids: object) -> str:
        raise NotImplementedError

    def forbidden(self, written: list[str], *banned: str) -> set[str]:
        """Texts of the tokens that may not follow."""
        constraints = Constraints(self, DecodeOptions(banned_words=banned), torch.device("cpu"))
        logits = torch.zeros(1, len(self.texts))
        ids = torch.tensor([[self.texts.index(text) for text in written]], dtype=torch.int64)
        constraints.at(ids).apply(logits)
        assert logits[0, 1] == -torch.inf
        assert logits[0, 0] == 0, "the end is never a banned word"
        return {self.texts[i] for i in (logits[0] == -torch.inf).nonzero().flatten().tolist()} - {
            ""
        }


def constraints_of(vocabulary: Letters, options: DecodeOptions) -> Constraints:
    return Constraints(vocabulary, options, torch.device("cpu"))
