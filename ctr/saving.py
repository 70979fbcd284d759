"""A trained model on disk: safetensors, JSON and Parquet; nothing is pickled.

    model/weights.safetensors     all trained weights, without the frozen vectors
    model/model.json              what the model was built from, and the fingerprint of its frozen vectors
    model/users.parquet, items.parquet    the vocabularies; the i-th id has row i + 1 of its table

Legend: R rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ctr.evaluation import probabilities
from ctr.frozen_embeddings import FrozenEmbeddings
from ctr.impressions import Vocabulary, index_impressions, make_catalogue
from ctr.model import CONTENT_MODULES, CtrModel
from ctr.one_process import OneProcessScorer
from ctr.training import score
from moonrec.atomic import write_json
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError

_WEIGHTS, _SETTINGS, _USERS, _ITEMS = "weights.safetensors", "model.json", "users.parquet", "items.parquet"


@dataclass(frozen=True)
class ModelSettings:
    """What a model is built from, beside its vocabularies.

    Attributes:
        content: names of its content modules.
        embedding_dim: width of the trained ids.
        history: the longest history.
        seed: the seed it was trained with.
        embeddings_fingerprint: of the embedding set it was trained with; None for ids only.
    """

    content: tuple[str, ...]
    embedding_dim: int
    history: int
    seed: int
    embeddings_fingerprint: str | None


def build_model(
    settings: ModelSettings,
    vocabulary: Vocabulary,
    frozen: FrozenEmbeddings | None,
    table_device: str = "cpu",
) -> CtrModel:
    """An untrained model for these settings and vocabularies."""
    return CtrModel(
        users=len(vocabulary.users) + 1,
        items=len(vocabulary.items) + 1,
        embedding_dim=settings.embedding_dim,
        frozen=frozen,
        content=settings.content,
        seed=settings.seed,
        table_device=table_device,
    )


def save_model(
    folder: Path, state: Mapping[str, Tensor], settings: ModelSettings, vocabulary: Vocabulary
) -> None:
    """Write a model into `folder`, which must exist."""
    # Not `save_file`: its files are readable by their owner alone, whatever the umask says.
    (folder / _WEIGHTS).write_bytes(save({name: value.contiguous() for name, value in state.items()}))
    pq.write_table(pa.table({"user_id": vocabulary.users}), folder / _USERS)
    pq.write_table(pa.table({"item_id": vocabulary.items}), folder / _ITEMS)
    write_json(folder / _SETTINGS, asdict(settings))


@dataclass(frozen=True)
class SavedCtr:
    """A model as it was saved, with the vocabularies and frozen vectors that it needs for scoring."""

    settings: ModelSettings
    vocabulary: Vocabulary
    state: Mapping[str, Tensor] = field(repr=False)
    embeddings: EmbeddingSet | None

    def model(self, frozen: FrozenEmbeddings | None) -> CtrModel:
        """The trained model over vectors taken from `self.embeddings` (None for a model of ids only)."""
        model = build_model(self.settings, self.vocabulary, frozen)
        model.load_state_dict(dict(self.state))
        return model

    def score(self, events: pa.Table, impressions: pa.Table) -> NDArray[np.float64]:
        """Probabilities of the rows of a table of impressions, (R,), from histories in a table of events."""
        catalogue = make_catalogue(events, [impressions])
        frozen, frozen_row = None, None
        if self.embeddings is not None:
            frozen, frozen_row = FrozenEmbeddings.from_set(self.embeddings, catalogue.items)
        indexed = index_impressions(
            impressions, catalogue, self.vocabulary, frozen_row, self.settings.history
        )
        logit_R = score(OneProcessScorer(self.model(frozen)), indexed)
        assert logit_R is not None
        return probabilities(logit_R)


def load_ctr(run: str | Path, embeddings: str | Path | None = None) -> SavedCtr:
    """Load the model of a run folder.

    Args:
        run: the folder that `moonrec train-ctr` wrote.
        embeddings: the embedding set that it was trained with; None for a model of ids only.

    Raises:
        UserError: no model there, a damaged one, or other embeddings than it was trained with.
    """
    folder = Path(run) / "model"
    settings = _read_settings(folder / _SETTINGS)
    try:
        state = load_file(folder / _WEIGHTS)
        users = pq.read_table(folder / _USERS)["user_id"].combine_chunks()
        items = pq.read_table(folder / _ITEMS)["item_id"].combine_chunks()
    except (OSError, KeyError, pa.ArrowException, SafetensorError) as error:
        raise UserError(f"{folder}: the model is incomplete or damaged ({error}); train it again") from error
    embedding_set = EmbeddingSet.open(embeddings) if embeddings is not None and settings.content else None
    _check_embeddings(run, settings, embedding_set)
    return SavedCtr(settings, Vocabulary(users, items), state, embedding_set)


def _read_settings(path: Path) -> ModelSettings:
    if not path.is_file():
        raise UserError(f"{path}: missing, so this is no run of `moonrec train-ctr`; give the run's folder")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        settings = ModelSettings(**{**values, "content": tuple(values["content"])})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: is damaged ({error}); train the model again") from error
    if strange := set(settings.content) - set(CONTENT_MODULES):
        raise UserError(f"{path}: names unknown content modules {sorted(strange)}; train the model again")
    return settings


def _check_embeddings(run: str | Path, settings: ModelSettings, embeddings: EmbeddingSet | None) -> None:
    if settings.embeddings_fingerprint is None:
        return
    if embeddings is None:
        raise UserError(f"{run}: the model reads frozen vectors; give the embedding set it was trained with")
    if embeddings.fingerprint != settings.embeddings_fingerprint:
        raise UserError(
            f"{embeddings.path}: fingerprint {embeddings.fingerprint[:12]}, but {run} was trained with "
            f"embeddings of fingerprint {settings.embeddings_fingerprint[:12]}; give those, or train again"
        )
