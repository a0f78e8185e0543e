"""`python -m patchioner` is the same as the `patchioner` command."""

from __future__ import annotations

import sys

from patchioner.cli.main import main

sys.exit(main())
