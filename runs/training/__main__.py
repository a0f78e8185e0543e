"""``python -m runs.training STEP --config FILE``: the steps of a full training run, each resumable."""

from __future__ import annotations

import argparse
import logging

import torch

from runs.training import steps
from runs.training.settings import RunSettings

STEPS = ("cache", "align", "tune", "text", "corpus", "bank", "decoder", "assemble")


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(prog="python -m runs.training", description=__doc__)
    parser.add_argument("step", choices=sorted(STEPS))
    parser.add_argument("--config", required=True)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings = RunSettings.read(arguments.config)
    torch.manual_seed(settings.seed)
    getattr(steps, f"run_{arguments.step}")(settings)


if __name__ == "__main__":
    main()
