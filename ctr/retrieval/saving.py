"""A trained two-tower model on disk: safetensors, JSON and Parquet; nothing is pickled.

model/weights.safetensors     all trained weights, without the frozen vectors
model/model.json              what the model was built from, and the fingerprint of its frozen vectors
model/users.parquet, items.parquet, ...    the vocabularies (ctr/data/vocabulary.py)
model/categories_of_items.parquet          the category paths with a trained row
model/popularity.parquet                   how often each item was taken in training
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ctr.content.frozen_embeddings import FrozenEmbeddings
from ctr.data.features import internal_name
from ctr.data.vocabulary import Vocabulary
from ctr.model_settings import SavedSet
from ctr.retrieval.data import RetrievalVocabulary, encoder_of
from ctr.retrieval.index import ItemIndex
from ctr.retrieval.model import RetrievalShape, TwoTowers
from ctr.retrieval.user_sample import FILE as SAMPLE
from ctr.saved_embeddings import open_saved_sets
from ctr.saving import check_finite
from moonrec.atomic import atomic_file, write_json
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError

_WEIGHTS, _SETTINGS = "weights.safetensors", "model.json"
_CATEGORIES, _POPULARITY = "categories_of_items.parquet", "popularity.parquet"
_MEND = "train it again"
_TEXT = pa.large_string()
_SET = "item"
_LARGEST = 1 << 31


@dataclass(frozen=True)
class RetrievalSettings:
    """What a saved model is built from, beside vocabularies and weights.

    Attributes:
        embedding_dim, dim, history, mask_history, seed: see `RetrievalConfig`.
        embeddings: the set of frozen vectors; None for a model without.
        encoder: what made that set, see `ctr.retrieval.data.encoder_of`; None where it does not tell.
    """

    embedding_dim: int
    dim: int
    history: int
    mask_history: bool
    seed: int
    embeddings: SavedSet | None
    encoder: str | None = None


def build_model(
    settings: RetrievalSettings,
    vocabulary: RetrievalVocabulary,
    frozen: FrozenEmbeddings | None,
    table_device: str = "cpu",
) -> TwoTowers:
    """An untrained model for these settings and vocabularies over these vectors."""
    ids = vocabulary.ids
    shape = RetrievalShape(
        ids={
            "user": len(ids.users) + 1,
            "item": len(ids.items) + 1,
            "category": len(vocabulary.categories) + 1,
        },
        context={internal_name(name): len(values) + 1 for name, values in ids.categories.items()},
        numbers=2 * len(ids.numerics),
        embedding_dim=settings.embedding_dim,
        dim=settings.dim,
        history=settings.history,
        seed=settings.seed,
    )
    # A module of its own over the same vectors: where a model is moved to, others do not follow.
    own = None if frozen is None else FrozenEmbeddings(frozen.vectors)
    return TwoTowers(shape, own, table_device)


def save_model(
    folder: Path,
    state: Mapping[str, Tensor],
    settings: RetrievalSettings,
    vocabulary: RetrievalVocabulary,
    popularity: tuple[pa.Array, NDArray[np.int64]],
) -> None:
    """Write a model into `folder`, which must exist.

    Args:
        folder: `RUN/model`.
        state: all weights.
        settings, vocabulary: what it was built from.
        popularity: item ids, and how often each was taken in training.

    Raises:
        UserError: the disk is full.
    """
    # Not `save_file`: its files are readable by their owner alone, whatever the umask says.
    with atomic_file(folder / _WEIGHTS) as temporary:
        temporary.write_bytes(save({name: value.contiguous() for name, value in state.items()}))
    vocabulary.ids.save(folder)
    _write(folder / _CATEGORIES, {"category": vocabulary.categories.cast(_TEXT)})
    ids, count = popularity
    _write(folder / _POPULARITY, {"item_id": ids.cast(_TEXT), "count": pa.array(count, pa.int64())})
    write_json(folder / _SETTINGS, {"model": "two-towers", **asdict(settings)})


@dataclass(frozen=True)
class SavedRetrieval:
    """A model as it was saved.

    Attributes:
        run: the folder that it came from.
        settings: what it was built from.
        vocabulary: ids, context and categories.
        state: its weights.
        embeddings: the set of frozen vectors; None for a model without.
        popular: item ids by how often they were taken in training, and these counts.
        fingerprint: sha256 of weights, settings and vocabularies: what an index is made for.
        opened: the indexes that `retrieve` has checked and opened, by folder and whether all is searched.
    """

    run: Path
    settings: RetrievalSettings
    vocabulary: RetrievalVocabulary
    state: Mapping[str, Tensor] = field(repr=False)
    embeddings: EmbeddingSet | None
    popular: tuple[pa.Array, NDArray[np.int64]]
    fingerprint: str
    opened: dict[tuple[Path, bool], ItemIndex] = field(default_factory=dict, repr=False, compare=False)

    def model(self, frozen: FrozenEmbeddings | None) -> TwoTowers:
        """The trained model over vectors taken from `embeddings`.

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

    def retrieve(self, events: pa.Table, users: pa.Table, k: int = 500, **options: Any) -> pa.Table:
        """Candidates for a table of users in memory; for files there is `moonrec retrieve`.

        An index is checked and opened at the first call that asks for it; load the model again to see one
        that was written since.

        Args:
            events: what users did: `user_id`, `item_id`, `timestamp` of any unit, as in files.
            users: `user_id`, maybe `timestamp`, the model's context columns.
            k: candidates per row.
            options: `index`, `exact`, `mask_history`, `new_share` of `RetrieveConfig`, and `user_table`, a
                table of context columns.

        Returns:
            `user_id`, (`timestamp`), `item_ids`, `scores`, `source` of each row, see `RetrieveConfig`.

        Raises:
            UserError: no usable index, a missing column, or a value that may not stand where it stands.
        """
        from ctr.retrieval.retrieve import retrieve_in_memory

        return retrieve_in_memory(self, events, users, k, **options)


def load_retrieval(
    run: str | Path,
    embeddings: str | Path | None = None,
    *,
    allow_other_embeddings: bool = False,
) -> SavedRetrieval:
    """Load the model of a run folder.

    Args:
        run: the folder that `moonrec train-retrieval` wrote.
        embeddings: the embedding set that it was trained with, or one of the same encoder with other items;
            None: where training had it.
        allow_other_embeddings: take a set of which it cannot be told that the same encoder made it.

    Raises:
        UserError: no model there, a damaged one, a set that is not found, or one of another encoder.
    """
    run = Path(run)
    folder = run / "model"
    settings = _load_settings(folder / _SETTINGS)
    vocabulary = RetrievalVocabulary(
        Vocabulary.load(folder), _read(folder / _CATEGORIES, {"category": _TEXT})["category"]
    )
    counted = _read(folder / _POPULARITY, {"item_id": _TEXT, "count": pa.int64()})
    try:
        state = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: the model is incomplete or damaged ({error}); {_MEND}") from error
    check_finite(folder / _WEIGHTS, state)
    _check_users(folder, settings, vocabulary, state)
    saved = {} if settings.embeddings is None else {_SET: settings.embeddings}
    given = None if embeddings is None else str(embeddings)
    sets = open_saved_sets(run, "--embeddings", saved, given, allow_other=True)
    if not allow_other_embeddings:
        _check_encoder(run, settings, sets.get(_SET))
    return SavedRetrieval(
        run,
        settings,
        vocabulary,
        state,
        sets.get(_SET),
        (counted["item_id"], np.asarray(counted["count"].to_numpy())),
        model_fingerprint(folder),
    )


def model_fingerprint(folder: Path) -> str:
    """sha256 of all that decides a saved model's vectors: weights, settings and vocabularies."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name != SAMPLE:
            with file.open("rb") as stream:
                digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _load_settings(path: Path) -> RetrievalSettings:
    if not path.is_file():
        raise UserError(
            f"{path}: missing, so this is no run of `moonrec train-retrieval`; give the run's folder"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.pop("model", None) != "two-towers":
            raise UserError(f"{path}: is no model of `moonrec train-retrieval`; give the folder of one")
        return _settings(values)
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]!r} is missing; {_MEND}") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); {_MEND}") from error


def _settings(values: Mapping[str, Any]) -> RetrievalSettings:
    for name in ("embedding_dim", "dim", "history", "seed"):
        least, end = (0, 1 << 63) if name == "seed" else (1, _LARGEST)
        if type(values[name]) is not int or not least <= values[name] < end:
            raise ValueError(f"{name} is {values[name]!r:.40}, expected a whole number")
    if type(values["mask_history"]) is not bool:
        raise ValueError("mask_history is neither true nor false")
    saved = values["embeddings"]
    if saved is not None:
        if type(saved["dimension"]) is not int or not 0 < saved["dimension"] < _LARGEST:
            raise ValueError("its embedding set has no dimension")
        if not isinstance(saved["fingerprint"], str):
            raise ValueError("its embedding set has no fingerprint")
        saved = SavedSet(saved["dimension"], saved["fingerprint"])
    encoder = values["encoder"]
    if encoder is not None and not isinstance(encoder, str):
        raise ValueError("encoder is no text")
    names = ("embedding_dim", "dim", "history", "mask_history", "seed")
    return RetrievalSettings(**{name: values[name] for name in names}, embeddings=saved, encoder=encoder)


def _check_users(
    folder: Path, settings: RetrievalSettings, vocabulary: RetrievalVocabulary, state: Mapping[str, Tensor]
) -> None:
    """Before tables of the sizes that the settings tell are made: are these the sizes of the weights?"""
    wanted = (len(vocabulary.ids.users) + 1, settings.embedding_dim)
    table = state.get("ids.embeddings.user.weight")
    if table is None or tuple(table.shape) != wanted:
        raise UserError(f"{folder / _WEIGHTS}: its table of users does not fit {_SETTINGS}; {_MEND}")


def _check_encoder(run: Path, settings: RetrievalSettings, found: EmbeddingSet | None) -> None:
    """New items come in new sets, so not the vectors have to be the same ones, but what made them."""
    if found is None or settings.embeddings is None or found.fingerprint == settings.embeddings.fingerprint:
        return
    if settings.encoder is None or encoder_of(found) != settings.encoder:
        raise UserError(
            f"{found.path}: made by {_shown(encoder_of(found))}, but {run} was trained with vectors by "
            f"{_shown(settings.encoder)}; export with that encoder and modality, or go on all the same with "
            "--allow-other-embeddings (in Python: allow_other_embeddings=True)"
        )


def _shown(encoder: str | None) -> str:
    if encoder is None:
        return "an encoder that is not told"
    fingerprint, _, modality = encoder.rpartition(" ")
    return f"encoder {fingerprint[:12]} (modality {modality})"


def _write(path: Path, columns: Mapping[str, pa.Array]) -> None:
    with atomic_file(path) as temporary:
        pq.write_table(pa.table(dict(columns)), temporary)


def _read(path: Path, columns: Mapping[str, pa.DataType]) -> dict[str, pa.Array]:
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=list(columns)).cast(pa.schema(list(columns.items())))
        table.validate(full=True)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path}: is missing or damaged ({error}); {_MEND}") from error
    if any(column.null_count for column in table.columns):
        raise UserError(f"{path}: is damaged (it holds nulls); {_MEND}")
    return {name: table[name].combine_chunks() for name in columns}
