"""Other people's models: asking them, remembering what they said, and knowing when to stop.

Knows: servers that speak the OpenAI protocol, models of `transformers`, a cache on disk, retries, budgets. Does NOT
know: what is asked or why; regions, statements and paragraphs are the stages' matter.
"""

from __future__ import annotations

from patchioner.detail.clients.answers import Answer, Question
from patchioner.detail.clients.budget import Budget, Prices, Usage
from patchioner.detail.clients.cache import CallCache
from patchioner.detail.clients.retry import RetryPolicy

__all__ = [
    "Answer",
    "Budget",
    "CallCache",
    "Prices",
    "Question",
    "RetryPolicy",
    "Usage",
]
