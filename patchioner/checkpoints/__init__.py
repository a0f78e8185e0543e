"""Checkpoints on disk: our folder format, the published ones, and the shipped weights (`patchioner-mini/`)."""
