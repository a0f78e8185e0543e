"""The public face of the package: light to import, and exporting what it says."""

from __future__ import annotations

import importlib
import subprocess
import sys

import patchioner

HEAVY = ("torch", "timm", "tokenizers", "safetensors", "huggingface_hub", "matplotlib", "skimage")


def modules_after(code: str) -> set[str]:
    command = f"{code}\nimport sys\nprint(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    return set(out.stdout.split())


def test_importing_it_and_making_regions_loads_nothing_heavy() -> None:
    code = "from patchioner import Box, Mask, Trace, RegionSet; RegionSet([Box(0, 0, 2, 2)])"
    assert modules_after(code).isdisjoint(HEAVY)


def test_parts_that_need_numpy_only_stay_light() -> None:
    names = ("geometry", "images", "regions", "regions.files", "aggregate")
    code = ", ".join(f"patchioner.{name}" for name in names)
    assert modules_after(f"import {code}").isdisjoint(HEAVY)


def test_every_exported_name_is_there_and_documented() -> None:
    assert sorted(patchioner.__all__) == patchioner.__all__
    assert len(set(patchioner.__all__)) == len(patchioner.__all__)
    for name in patchioner.__all__:
        value = getattr(patchioner, name)
        assert name == "__version__" or value.__doc__
    assert dir(patchioner) == patchioner.__all__


def test_lazy_names_are_the_real_ones() -> None:
    for name, module in patchioner._LAZY.items():
        assert getattr(patchioner, name) is getattr(importlib.import_module(module), name)
