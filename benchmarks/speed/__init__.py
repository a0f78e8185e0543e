"""How fast: see `python -m benchmarks.speed --help`."""
