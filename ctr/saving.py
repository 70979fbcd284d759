"""A trained model on disk: safetensors, JSON and Parquet; nothing is pickled.

model/weights.safetensors     all trained weights, without the frozen vectors
model/model.json              what the model was built from, and the fingerprints of its frozen vectors
model/users.parquet, items.parquet, ...    the vocabularies (ctr/data/vocabulary.py)
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ctr.block_scorer import BlockScorer
from ctr.data.features import internal_name
from ctr.data.sources import InMemory
from ctr.data.vocabulary import Vocabulary
from ctr.model import CtrModel, FrozenSets, ModelShape
from ctr.model_settings import ModelSettings
from ctr.named_folders import Folders
from ctr.saved_embeddings import open_saved_sets
from moonrec.atomic import atomic_file
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError
from moonrec.table_spec import EVENTS, IMPRESSIONS_TO_SCORE, ITEMS, USERS

_WEIGHTS, _SETTINGS = "weights.safetensors", "model.json"
_MEND = "train it again"


def build_model(
    settings: ModelSettings, vocabulary: Vocabulary, frozen: FrozenSets, table_device: str = "cpu"
) -> CtrModel:
    """An untrained model for these settings and vocabularies over these vectors."""
    ids = {"user": len(vocabulary.users) + 1, "item": len(vocabulary.items) + 1}
    if vocabulary.queries is not None:
        ids["query"] = len(vocabulary.queries) + 1
    shape = ModelShape(
        ids=ids,
        context={internal_name(name): len(values) + 1 for name, values in vocabulary.categories.items()},
        numbers=2 * len(vocabulary.numerics),
        embedding_dim=settings.embedding_dim,
        content=settings.content,
        cross=settings.cross,
        predictor=settings.predictor,
        seed=settings.seed,
    )
    return CtrModel(shape, frozen, table_device)


def save_model(
    folder: Path, state: Mapping[str, Tensor], settings: ModelSettings, vocabulary: Vocabulary
) -> None:
    """Write a model into `folder`, which must exist.

    Raises:
        UserError: the disk is full.
    """
    # Not `save_file`: its files are readable by their owner alone, whatever the umask says.
    with atomic_file(folder / _WEIGHTS) as temporary:
        temporary.write_bytes(save({name: value.contiguous() for name, value in state.items()}))
    vocabulary.save(folder)
    settings.save(folder / _SETTINGS)


@dataclass(frozen=True)
class SavedCtr:
    """A model as it was saved, with the vocabularies and embedding sets that it needs for scoring.

    Attributes:
        run: the folder that it came from.
        settings: what it was built from.
        vocabulary: ids, categories and scales.
        state: its weights.
        items: the embedding sets of items, by name.
        queries: those of queries, by the item set whose space they live in.
    """

    run: Path
    settings: ModelSettings
    vocabulary: Vocabulary
    state: Mapping[str, Tensor] = field(repr=False)
    items: Mapping[str, EmbeddingSet]
    queries: Mapping[str, EmbeddingSet]

    def model(self, frozen: FrozenSets) -> CtrModel:
        """The trained model over vectors taken from `items` and `queries`.

        Raises:
            UserError: the saved weights do not fit the saved settings.
        """
        model = build_model(self.settings, self.vocabulary, frozen)
        try:
            model.load_state_dict(dict(self.state))
        except RuntimeError as error:
            raise UserError(
                f"{self.run / 'model' / _WEIGHTS}: does not fit {_SETTINGS} ({str(error)[:200]}); {_MEND}"
            ) from error
        return model.eval()

    def score(
        self,
        events: pa.Table,
        impressions: pa.Table,
        *,
        users: pa.Table | None = None,
        items: pa.Table | None = None,
    ) -> NDArray[np.float64]:
        """Probabilities of the rows of a table in memory, (R,); for files there is `moonrec score`.

        Args:
            events: what users did; histories come from here. Times are timestamps of any unit, or numbers
                since 1970 UTC whose unit is told from their size, as in files.
            impressions: the rows, also none; labels are not looked at.
            users, items: tables of features that the model reads.

        Raises:
            UserError: a table lacks a feature of the model, or a value may not stand where it stands.
        """
        with tempfile.TemporaryDirectory() as folder:
            scorer = BlockScorer(
                self,
                impressions=InMemory(impressions, IMPRESSIONS_TO_SCORE),
                events=InMemory(events, EVENTS),
                folder=Path(folder),
                users=None if users is None else InMemory(users, USERS),
                items=None if items is None else InMemory(items, ITEMS),
            )
            return np.concatenate([np.zeros(0), *(block.score_R for block in scorer.blocks())])


def load_ctr(
    run: str | Path,
    embeddings: Folders = None,
    query_embeddings: Folders = None,
    *,
    allow_other_embeddings: bool = False,
) -> SavedCtr:
    """Load the model of a run folder.

    Args:
        run: the folder that `moonrec train-ctr` wrote.
        embeddings: the embedding sets that it was trained with, by the names of the training; one folder will
            do where there is one set. What is not named is looked for where the training had it.
        query_embeddings: likewise those of queries.
        allow_other_embeddings: take sets of another fingerprint, too; their vectors have to have as many
            numbers.

    Raises:
        UserError: no model there, a damaged one or one of an older version, a set that is not found, or other
            embeddings than it was trained with.
    """
    run = Path(run)
    folder = run / "model"
    settings = ModelSettings.load(folder / _SETTINGS)
    vocabulary = Vocabulary.load(folder)
    try:
        state = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: the model is incomplete or damaged ({error}); {_MEND}") from error
    _check_sizes(folder, settings, vocabulary, state)
    check_finite(folder / _WEIGHTS, state)
    sets = [
        open_saved_sets(run, option, saved, given, allow_other_embeddings)
        for option, saved, given in (
            ("--embeddings", settings.item_sets, embeddings),
            ("--query-embeddings", settings.query_sets, query_embeddings),
        )
    ]
    return SavedCtr(run, settings, vocabulary, state, *sets)


def _check_sizes(
    folder: Path, settings: ModelSettings, vocabulary: Vocabulary, state: Mapping[str, Tensor]
) -> None:
    """Before tables of the sizes that the settings tell are made: are these the sizes of the weights?"""
    wanted = (len(vocabulary.users) + 1, settings.embedding_dim)
    table = state.get("ids.embeddings.user.weight")
    if table is None or tuple(table.shape) != wanted:
        found = "none" if table is None else " x ".join(map(str, table.shape))
        raise UserError(
            f"{folder / _WEIGHTS}: its table of users is {found}, but {_SETTINGS} and users.parquet tell "
            f"{wanted[0]} x {wanted[1]}; the model is damaged, {_MEND}"
        )


def check_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that are no numbers: what is computed with them is none, either.

    Raises:
        UserError: names the file and the weights.
    """
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{path}: {name} holds NaN or an infinite number; the model is damaged, {_MEND}")
