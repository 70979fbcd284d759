"""Two-tower models of torch-rechub, composed from its own parts; runs in the environment that has it.

Three of its models learn by a softmax over sampled items, and its `MatchTrainer` trains them:

- `DSSM` with the trainer's in-batch negatives: an item tower and a user tower, all other targets of the batch
  are negatives. The trainer multiplies the bare cosines, without the model's temperature and without a
  correction for popular items being drawn more often. `CorrectedDssm` adds both, without which it hardly
  learns: it is what a user of the library would have to write for the loss that we train.
- `YoutubeSBC` (https://dl.acm.org/doi/10.1145/3298689.3346996): the same towers, in-batch negatives with the
  correction, a few per row.
- `YoutubeDNN` (https://dl.acm.org/doi/10.1145/2959100.2959190): a user tower and a table of items, negatives
  drawn beforehand.

Legend: B rows of a batch, D width of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_rechub.basic.features import (  # type: ignore[import-not-found]
    DenseFeature,
    SequenceFeature,
    SparseFeature,
)
from torch_rechub.models.matching import DSSM, YoutubeDNN, YoutubeSBC  # type: ignore[import-not-found]

# Of its examples, and of its trainer where these say nothing.
_TEMPERATURE, _NEGATIVES = 0.02, 3
# Ours: of .02, .05 and .1 the best validation recall after two to four epochs.
_TUNED_TEMPERATURE = 0.05
_HIDDEN = 128


@dataclass(frozen=True)
class Sizes:
    """How large a model is.

    Attributes:
        users, items: rows of the tables, row 0 included.
        width: of the trained ids.
        vector: of what the towers return.
        content: of the frozen vectors; 0 for none.
        batch: rows of a step.
    """

    users: int
    items: int
    width: int
    vector: int
    content: int
    batch: int


class CorrectedDssm(DSSM):
    """DSSM whose in-batch scores are cosine / temperature - log(probability of the item in a batch).

    The correction is one more coordinate of the vectors, 1 for users: the trainer's product adds it up.
    """

    def user_tower(self, x: dict[str, Tensor]) -> Tensor | None:
        """(B, D), or (B, D + 1) while training; None when only items are asked for."""
        vector = super().user_tower(x)
        if vector is None or not self.training:
            return vector
        return torch.cat([vector / self.temperature, torch.ones_like(vector[:, :1])], dim=1)

    def item_tower(self, x: dict[str, Tensor]) -> Tensor | None:
        """(B, D), or (B, D + 1) while training; None when only users are asked for."""
        vector = super().item_tower(x)
        if vector is None or not self.training:
            return vector
        return torch.cat([vector, -torch.log(x["probability"].float())[:, None]], dim=1)


def build(name: str, sizes: Sizes) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A model by its name, and what `MatchTrainer` is told about its loss.

    Args:
        name: `dssm`, `dssm-corrected`, `sbc` or `dnn`.
        sizes: of it.

    Raises:
        KeyError: there is no such model.
    """
    return {"dssm": _dssm, "dssm-corrected": _corrected, "sbc": _sbc, "dnn": _dnn}[name](sizes)


def _dssm(sizes: Sizes) -> tuple[torch.nn.Module, dict[str, Any]]:
    model = DSSM(*_features(sizes), _tower(sizes), _tower(sizes), temperature=_TEMPERATURE)
    return model, {"in_batch_neg": True}


def _corrected(sizes: Sizes) -> tuple[torch.nn.Module, dict[str, Any]]:
    features = _features(sizes)
    model = CorrectedDssm(*features, _tower(sizes), _tower(sizes), temperature=_TUNED_TEMPERATURE)
    return model, {"in_batch_neg": True, "optimizer_params": {"lr": 1e-3, "weight_decay": 0.0}}


def _sbc(sizes: Sizes) -> tuple[torch.nn.Module, dict[str, Any]]:
    weights = {"sample_weight_feature": [DenseFeature("probability")]}
    tower = {"user_params": _tower(sizes), "item_params": _tower(sizes)}
    loss = {"batch_size": sizes.batch, "n_neg": _NEGATIVES, "temperature": _TEMPERATURE}
    return YoutubeSBC(*_features(sizes), **weights, **tower, **loss), {}


def _dnn(sizes: Sizes) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Its items have no tower, so their table is as wide as the vectors, and with it all tables."""
    user, history, item = _ids(sizes, sizes.vector)
    negatives = SequenceFeature("negatives", sizes.items, sizes.vector, "concat", shared_with="item")
    tower = {"user_params": _tower(sizes), "temperature": _TEMPERATURE}
    return YoutubeDNN([user, history], [item], [negatives], **tower), {}


def _tower(sizes: Sizes) -> dict[str, Any]:
    return {"dims": [_HIDDEN, sizes.vector], "activation": "prelu"}


def _features(sizes: Sizes) -> tuple[list[Any], list[Any]]:
    """Of the user tower and of the item tower."""
    user, history, item = _ids(sizes, sizes.width)
    if not sizes.content:
        return [user, history], [item]
    return (
        [user, history, DenseFeature("history_vector", sizes.content)],
        [item, DenseFeature("item_vector", sizes.content)],
    )


def _ids(sizes: Sizes, width: int) -> tuple[Any, Any, Any]:
    return (
        SparseFeature("user", sizes.users, width),
        SequenceFeature("history", sizes.items, width, shared_with="item", padding_idx=0),
        SparseFeature("item", sizes.items, width, padding_idx=0),
    )
