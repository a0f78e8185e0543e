"""Many photos, one resumable job: rows out, none lost, none doubled.

Importing it is light: torch, Arrow and Ray are loaded where they are used.
"""

from __future__ import annotations

from patchioner.batch.rows import Row, schema

__all__ = ["Row", "schema"]
