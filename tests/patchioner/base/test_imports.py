"""What importing the ground floor costs, and what it offers."""

from __future__ import annotations

import subprocess
import sys

import patchioner.base


def test_import_pulls_in_no_torch() -> None:
    code = "import sys, patchioner.base; sys.exit('torch' in sys.modules or 'tqdm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_export_list_is_true_and_complete() -> None:
    for name in patchioner.base.__all__:
        assert hasattr(patchioner.base, name)
    assert sorted(patchioner.base.__all__) == patchioner.base.__all__
