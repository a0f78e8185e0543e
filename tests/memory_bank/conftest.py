"""What several tests of the bank share."""

import torch
from torch import Tensor

DTYPES = ["float32", "float16", "int8"]


def random_rows(rows: int, dim: int, seed: int = 0) -> Tensor:
    """Rows of unlike lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = 0.2 + 3 * torch.rand(rows, 1, generator=generator)
    return lengths * torch.randn(rows, dim, generator=generator)
