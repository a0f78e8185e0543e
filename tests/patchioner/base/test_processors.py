"""What is asked of the processor before a faster way is taken."""

from __future__ import annotations

import pytest
import torch

from patchioner.base.processors import has_fast_int8


@pytest.mark.parametrize("supported", [True, False])
def test_fast_integers_are_the_processors_to_have(
    supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: supported, raising=False)
    assert has_fast_int8(torch.device("cpu")) is supported
    assert not has_fast_int8(torch.device("cuda"))


@pytest.mark.parametrize(
    ("module", "name"), [(torch, "_int_mm"), (torch.cpu, "_is_vnni_supported")]
)
def test_a_torch_without_the_question_or_the_product_has_none(
    module: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module, name, raising=False)
    assert not has_fast_int8(torch.device("cpu"))
