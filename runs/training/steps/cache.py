"""Step 1: the frozen teacher's tokens of every training photo."""

from __future__ import annotations

from runs.training.settings import RunSettings
from runs.training.teacher import load_teacher
from runs.training.token_cache import cache_tokens, photo_names


def run(settings: RunSettings) -> None:
    """Cache the teacher's tokens under ``work/tokens``."""
    cache_tokens(
        load_teacher(settings),
        settings.data("photos"),
        photo_names(settings.data("pairs")),
        settings.work / "tokens",
    )
