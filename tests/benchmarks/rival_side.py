"""torch-rechub's side of the retrieval comparison; a child of `retrieval_speed.py` in an environment with it.

Its own `MatchTrainer` and its own loader feed a model of `rival_models.py`. Speed is that of some steps after
a few to get warm. For quality it trains until its recall on the validation requests has stopped to rise, and
its best state is asked for the vectors of the test requests and of the catalogue, which the parent judges.

Legend: Q requests, N items, D width of the vectors, P (request, positive) pairs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from child import options, report
from rival_models import Sizes, build
from rival_rows import Columns, Items, read
from torch import Tensor
from torch.utils.data import DataLoader
from torch_rechub.trainers import MatchTrainer  # type: ignore[import-not-found]
from torch_rechub.utils.data import MatchDataGenerator  # type: ignore[import-not-found]

_LIST_WISE = 2
_NEGATIVES = 3
_WARM_STEPS = 3
_ASKED_AT_ONCE = 4_096
_K = 100

Batch = tuple[dict[str, Tensor], Tensor]


class Contender:
    """A model, its trainer and its rows.

    Args:
        given: the child's options.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        folder, self._batch = Path(given["data"]), given["batch"]
        self._items = Items(folder, given["content"], given["model"] == "dssm-corrected")
        train, self._validation = read(folder / "train.npz"), read(folder / "validation.npz")
        self._test = read(folder / "test.npz")
        torch.manual_seed(given["seed"])
        sizes = Sizes(
            users=int(max(table["user"].max() for table in (train, self._validation, self._test))) + 1,
            items=len(self._items),
            width=given["width"],
            vector=given["vector"],
            content=self._items.dimension,
            batch=self._batch,
        )
        model, loss = build(given["model"], sizes)
        # Its models read their attribute `mode`, a name or None, which a `Module` does not have.
        self.model: Any = model
        self._trainer = MatchTrainer(self.model, mode=_LIST_WISE, n_epoch=1, **loss)
        self._loader = _loader(train, self._items, self._batch, given["seed"])

    def samples_per_second(self, steps: int) -> float:
        """Rows a second over so many steps, with the loader's share."""
        self._trainer.train_one_epoch(_First(self._loader, _WARM_STEPS))
        timed = _First(self._loader, steps)
        started = time.perf_counter()
        self._trainer.train_one_epoch(timed)
        return timed.done * self._batch / (time.perf_counter() - started)

    def fit(self, epochs: int, patience: int, seconds: float) -> dict[str, float]:
        """Train until validation recall stops to rise, or the time is over; the best state stays."""
        best, state, best_epoch, started = -1.0, {}, 0, time.perf_counter()
        for epoch in range(1, epochs + 1):
            self._trainer.train_one_epoch(self._loader)
            recall = self._validation_recall()
            if recall > best:
                best, state, best_epoch = recall, copy.deepcopy(self.model.state_dict()), epoch
            if epoch - best_epoch >= patience or time.perf_counter() - started > seconds:
                break
        self.model.load_state_dict(state)
        taken = time.perf_counter() - started
        return {"epochs": epoch, "best_epoch": best_epoch, "validation_recall": best, "seconds": taken}

    def vectors(self, path: Path) -> None:
        """Write the vectors of the test requests and of the catalogue."""
        np.savez(
            path, allow_pickle=False, user=self._users(self._test).numpy(), item=self._catalogue().numpy()
        )

    def _validation_recall(self) -> float:
        asked = self._validation
        score_QN = self._users(asked) @ self._catalogue().T
        masked_Q = np.repeat(np.arange(len(score_QN)), np.diff(asked["masked_offset"]))
        score_QN[masked_Q, asked["masked"]] = -torch.inf
        best_QK = score_QN.topk(min(_K, score_QN.shape[1])).indices.numpy()
        found_P = (best_QK[asked["query"]] == asked["positive"][:, None]).any(axis=1)
        found_Q = np.bincount(asked["query"], weights=found_P, minlength=len(score_QN))
        return float((found_Q / np.minimum(asked["positives"], _K)).mean())

    def _users(self, table: Columns) -> Tensor:
        return self._asked("user", self._items.users(table), len(table["user"]))

    def _catalogue(self) -> Tensor:
        every = np.arange(1, len(self._items))
        return self._asked("item", self._items.targets(every), len(every))

    def _asked(self, tower: str, columns: Columns, rows: int) -> Tensor:
        """Unit vectors of one tower: all of the models score by the cosine."""
        self.model.eval()
        self.model.mode = tower
        parts = []
        with torch.no_grad():
            for first in range(0, rows, _ASKED_AT_ONCE):
                block = slice(first, first + _ASKED_AT_ONCE)
                parts.append(self.model({name: torch.from_numpy(of[block]) for name, of in columns.items()}))
        self.model.mode = None
        return torch.nn.functional.normalize(torch.cat(parts).flatten(1), dim=1)


class _First:
    """The first batches of a loader, counted as they are handed out."""

    def __init__(self, loader: Iterable[Batch], steps: int) -> None:
        self._loader, self._steps, self.done = loader, steps, 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in islice(self._loader, self._steps):
            self.done += 1
            yield batch


def _loader(train: Columns, items: Items, batch: int, seed: int) -> DataLoader[Any]:
    """The library's own loader, over whole batches only: a part of one breaks the sampling of `YoutubeSBC`.

    It works in this process: helpers of its own, of which it starts eight, make it slower by far here.
    """
    rows = len(train["item"])
    kept = np.sort(np.random.default_rng(seed).permutation(rows)[: rows - rows % batch])
    whole = {name: values[kept] for name, values in train.items()}
    columns = items.training_rows(whole, _NEGATIVES, seed)
    # Place 0 of every list is the positive's.
    generator = MatchDataGenerator(columns, np.zeros(len(kept), np.int64))
    nothing: Columns = {"item": np.zeros(0)}
    return generator.generate_dataloader(nothing, nothing, batch_size=batch, num_workers=0)[0]


def main() -> None:
    given = options()
    result = {"samples_per_second": Contender(given).samples_per_second(given["steps"])}
    if given["fit"]:
        contender = Contender(given)
        result |= contender.fit(**given["fit"])
        contender.vectors(Path(given["vectors"]))
    report(result)


if __name__ == "__main__":
    main()
