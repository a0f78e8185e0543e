"""Tests. A package only so that `tests.support` is ours, whatever an installed library calls its own tests."""
