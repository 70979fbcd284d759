"""One rank of a sharded training run, started by `torchrun` in tests/test_ctr_engines.py.

Usage: ctr_dmp_worker.py OPTIONS, with the options of `TrainConfig` as JSON. Fails if a frozen vector moved.
"""

from __future__ import annotations

import json
import sys

import torch

import ctr.train
from ctr.run_data import RunData, load_run_data


def main() -> None:
    options = json.loads(sys.argv[1])
    loaded: list[tuple[RunData, torch.Tensor]] = []

    def load_and_remember(**arguments: object) -> RunData:
        data = load_run_data(**arguments)
        assert data.frozen is not None
        loaded.append((data, data.frozen.vectors.clone()))
        return data

    ctr.train.load_run_data = load_and_remember
    ctr.train.train_ctr(ctr.train.TrainConfig(**{**options, "content": tuple(options["content"])}))
    data, before = loaded[0]
    assert data.frozen is not None
    assert torch.equal(data.frozen.vectors, before), "training moved frozen vectors"


if __name__ == "__main__":
    main()
