"""`moonrec train-relevance`: how relevant is an item to a query, from frozen vectors and what was taken.

Relevance is the third stage that MOON's embeddings serve, beside retrieval and ranking
(https://arxiv.org/abs/2511.11305). A small logistic model over a handful of similarities is trained on
(query, item) pairs of `searches`; the encoder stays as it is. Everything that is learnt (the model, its
scales, its calibration) comes from the training searches and the catalogue; the test searches are looked at
once, at the end, and only to be scored.

Shapes: Q distinct queries of a table, P pairs, n rows of a table, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoders.evaluation.entrants import Entrant, check_same_catalogue
from encoders.evaluation.entrants import Setting as Place
from encoders.evaluation.results import MAIN
from encoders.loading import cache_folder
from encoders.pairs import Unknown
from encoders.precision import pick_device
from encoders.queries import unknown_items
from encoders.relevance.asked import Asked, as_numbers, id_columns, positive_pairs
from encoders.relevance.features import COSINE, PairFeatures
from encoders.relevance.fitting import COSINE_ALONE, Fitted, TrainingPairs, fit_relevance
from encoders.relevance.item_vectors import ItemVectors, item_vectors
from encoders.relevance.labelled_pairs import KINDS, LabelledPairs, label_pairs
from encoders.relevance.measure import Resampling, ScoredPairs, measure
from encoders.relevance.model import Setting
from encoders.relevance.pair_table import write_pairs
from encoders.relevance.query_vectors import QueryWindow, query_windows
from encoders.relevance.report import relevance_report
from moonrec.errors import UserError
from moonrec.output_place import folder_or_none, refuse_inside_inputs
from moonrec.report import add_provenance
from moonrec.runs import Run, open_run
from moonrec.tables import ITEMS, SEARCHES, Table, open_table

COMMAND = "train-relevance"
_DRAWS = {"training": 1, "test": 2}


@dataclass(frozen=True)
class RelevanceConfig:
    """Options of `moonrec train-relevance`, with the names of the flags.

    Attributes:
        searches: training queries and what was taken, with `negative_item_id` where it is known.
        test: searches to measure on; none of them is learnt from.
        items: the catalogue.
        encoder: a run folder, a checkpoint, or `compact` (untrained).
        out: the run folder to write.
        embeddings: an embedding set of the catalogue by this encoder; its width is that of all vectors.
        negatives: sampled ones per (query, item taken), half of them of the same category.
        bootstrap: replicates behind the intervals.
        seed: of sampling, folds and intervals.
        device: where to compute.
        cache: folder of the feature cache (None: the default one, "": none).
    """

    searches: str
    test: str
    items: str
    encoder: str
    out: str
    embeddings: str | None = None
    negatives: int = 4
    bootstrap: int = 1000
    seed: int = 0
    device: str = "auto"
    cache: str | None = None


def train_relevance(config: RelevanceConfig) -> dict[str, Any]:
    """Train, measure and write a run folder; returns what `metrics.json` holds.

    `test` and `baseline.cosine` hold AUC, average precision and their intervals `ci`, the mean AUC within
    queries, log loss and calibration; `by_modality[]`, `by_negative[]` and `new_queries` the same for some of
    the pairs; `differences[]` model minus cosine, paired by query. `model` says what was chosen and its
    weights, `training` what it learnt from. `pairs.parquet` holds every test pair with its scores.

    Raises:
        UserError: tables that do not fit each other, searches without a usable query, without an item of the
            catalogue, or without a negative; an encoder that cannot be opened or gives vectors that are not
            finite; embeddings of another encoder or catalogue; an output that would touch an input.
    """
    _check(config)
    training = _Training(config)
    inputs = training.fingerprints()
    with open_run(Path(config.out), COMMAND, asdict(config), inputs, seed=config.seed) as run:
        return training.write(run, inputs)


@dataclass(frozen=True)
class _Searches:
    """A searches table, its queries, and the same as numbers."""

    table: Table
    window: QueryWindow
    asked: Asked


@dataclass(frozen=True)
class _Labelled:
    """Labelled pairs with all that is known of them."""

    pairs: LabelledPairs
    feature_PF: np.ndarray
    modality_P: np.ndarray

    def for_training(self) -> TrainingPairs:
        return TrainingPairs(self.feature_PF, self.modality_P, self.pairs.query_P, self.pairs.label_P)


class _Training:
    """The tables and the encoder of one training."""

    def __init__(self, config: RelevanceConfig) -> None:
        self.config = config
        self.train, self.test = open_table(config.searches, SEARCHES), open_table(config.test, SEARCHES)
        if self.train.fingerprint() == self.test.fingerprint():
            raise UserError(
                f"--test {config.test}: is the same table as --searches; measure on searches that were not "
                "learnt from"
            )
        self.items = open_table(config.items, ITEMS)
        ids = self.items.read(["item_id"]).column("item_id")
        # A wrong catalogue is told before minutes of encoding.
        self.unknown = {name: unknown_items(table, ids) for name, table in self._tables().items()}
        place = Place(self.items, pick_device(config.device), cache_folder(config.cache))
        option = f"--encoder {config.encoder}"
        if config.embeddings is not None:
            option = f"--embeddings {config.embeddings}"
        self.entrant = Entrant.of(MAIN, option, config.encoder, config.embeddings, place)
        check_same_catalogue(self.entrant, ids)

    def fingerprints(self) -> dict[str, str]:
        """Of all inputs."""
        found = {name: table.fingerprint() for name, table in self._tables().items()}
        found |= {"items": self.items.fingerprint(), "encoder": self.entrant.fingerprint()}
        if self.entrant.embeddings is not None:
            found["embeddings"] = self.entrant.embeddings.fingerprint
        return found

    def write(self, run: Run, inputs: Mapping[str, str]) -> dict[str, Any]:
        """Do all of it; returns the metrics. The page tells the fingerprints `inputs`."""
        items = item_vectors(self.items, self.entrant)
        features = PairFeatures(items)
        train, test = self._searches(self.train, items, "training"), self._searches(self.test, items, "test")
        learnt = self._labelled(train, items, features, "training")
        asked = self._labelled(test, items, features, "test", _known(train, test))
        setting = Setting(
            self.config.encoder, self.entrant.fingerprint(), self.entrant.dim,
            self.items.fingerprint(), features.names, items.levels,
        )  # fmt: skip
        fitted = fit_relevance(learnt.for_training(), setting, self.config.seed)
        alone = fit_relevance(learnt.for_training(), setting, self.config.seed, [COSINE_ALONE])
        fitted.model.save(run.model_dir)
        scored, unfamiliar = _scored(asked, fitted, alone, _is_new(train, test))
        metrics = measure(scored, Resampling(self.config.bootstrap, self.config.seed))
        seen = len(np.unique(scored.pairs.query_P[~scored.is_new_P]))
        metrics["test"] |= {"queries_in_training": seen, **unfamiliar}
        metrics["model"] = fitted.chosen | {"weights": fitted.model.weights(), "tried": fitted.tried}
        metrics["training"] = _counts(learnt)
        metrics["positive_cosine"] = {
            name: _mean_cosine(one) for name, one in (("training", learnt), ("test", asked))
        }
        metrics["broken_images"] = self._broken_images()
        metrics["unknown_items"] = {name: _unknown(one) for name, one in self.unknown.items()}
        run.save_metrics(metrics)
        write_pairs(run.path, scored, test.window.row_Q, items.ids)
        report = relevance_report(metrics, scored, test.window, self.test, self.items)
        add_provenance(report, asdict(self.config), inputs)
        report.save(run.path / "report.html")
        return metrics

    def _tables(self) -> dict[str, Table]:
        return {"searches": self.train, "test": self.test}

    def _searches(self, table: Table, items: ItemVectors, what: str) -> _Searches:
        worker = self.entrant.worker
        assert worker is not None
        (window,) = query_windows(table, worker, table.count_rows(), f"{what} queries")
        asked = as_numbers(id_columns(table), window, items)
        if not (window.vectors.modality_Q() >= 0).any():
            raise UserError(f"{table.path}: no row has a usable query, neither words nor a picture")
        if not len(positive_pairs(asked)[0]):
            raise UserError(
                f"{table.path}: no usable query took an item of the catalogue (other than its own picture's)"
            )
        return _Searches(table, window, asked)

    def _labelled(
        self,
        searches: _Searches,
        items: ItemVectors,
        features: PairFeatures,
        what: str,
        known: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> _Labelled:
        config, asked, vectors = self.config, searches.asked, searches.window.vectors
        pairs = label_pairs(asked, items, config.negatives, (config.seed, _DRAWS[what]), known)
        if pairs.label_P.all():
            raise UserError(
                f"{searches.table.path}: gives no negative: none is shown (`negative_item_id`) that was not "
                f"taken, and --negatives {config.negatives} samples none from {len(items):,} items"
            )
        near = features.neighbours(vectors, asked.own_Q)
        feature_PF = features(vectors, near, pairs.query_P, pairs.item_P)
        return _Labelled(pairs, feature_PF, vectors.modality_Q()[pairs.query_P])

    def _broken_images(self) -> Mapping[str, object]:
        assert self.entrant.worker is not None
        return self.entrant.worker.preparer.broken.to_dict()


def _known(train: _Searches, test: _Searches) -> tuple[np.ndarray, np.ndarray]:
    """What queries of the test took in training, as pairs of the test's query numbers and items.

    It keeps such items from being sampled as negatives; nothing else of it is looked at.
    """
    number_of = {key: number for number, key in enumerate(test.window.keys)}
    of_train_Q = np.array([number_of.get(key, -1) for key in train.window.keys])
    query_P, item_P = positive_pairs(train.asked)
    both_P = of_train_Q[query_P] >= 0
    return of_train_Q[query_P][both_P], item_P[both_P]


def _is_new(train: _Searches, test: _Searches) -> np.ndarray:
    """Which queries of the test (Q,) do not stand in training."""
    seen = set(train.window.keys)
    return np.array([key not in seen for key in test.window.keys])


def _scored(
    asked: _Labelled, fitted: Fitted, alone: Fitted, is_new_Q: np.ndarray
) -> tuple[ScoredPairs, dict[str, int]]:
    """The test pairs that can be scored, and how many queries cannot: their modality was not learnt."""
    familiar_P = fitted.model.is_familiar(asked.modality_P)
    left_out = len(np.unique(asked.pairs.query_P[~familiar_P]))
    pairs = asked.pairs[familiar_P]
    if len(np.unique(pairs.label_P)) < 2:
        raise UserError(
            "--test: queries that show what those of --searches show (pictures, words, both) have not both "
            "taken and other items, so that nothing can be measured; add such searches"
        )
    feature_PF, modality_P = asked.feature_PF[familiar_P], asked.modality_P[familiar_P]
    cosine_P = np.nan_to_num(feature_PF[:, fitted.model.setting.features.index(COSINE)])
    relevance_P, cosine_relevance_P = (one.model(feature_PF, modality_P) for one in (fitted, alone))
    scored = ScoredPairs(
        pairs, modality_P, relevance_P, cosine_P, cosine_relevance_P, is_new_Q[pairs.query_P]
    )
    return scored, {"queries_of_unknown_modality": left_out}


def _counts(learnt: _Labelled) -> dict[str, Any]:
    kinds = np.bincount(learnt.pairs.kind_P, minlength=len(KINDS)).tolist()
    return {
        "queries": len(np.unique(learnt.pairs.query_P)),
        "pairs": len(learnt.pairs),
        "kinds": dict(zip(KINDS, kinds, strict=True)),
        "share_of_positives": float(learnt.pairs.label_P.mean()),
    }


def _mean_cosine(labelled: _Labelled) -> float:
    # As everywhere, an item that shows nothing has a cosine of 0.
    return float(np.nan_to_num(labelled.feature_PF[labelled.pairs.label_P, 0]).mean())


def _unknown(unknown: Unknown) -> dict[str, Any]:
    return asdict(unknown) | {"examples": list(unknown.examples)}


def _check(config: RelevanceConfig) -> None:
    if config.negatives < 0:
        raise UserError(f"--negatives {config.negatives}: expected 0 (shown ones only) or more; 4 is usual")
    if config.bootstrap < 1:
        raise UserError(f"--bootstrap {config.bootstrap}: expected at least 1 replicate; 1000 is usual")
    inputs = [
        ("--encoder", folder_or_none(config.encoder)),
        ("--embeddings", config.embeddings),
        ("--items", config.items),
        ("--searches", config.searches),
        ("--test", config.test),
    ]
    refuse_inside_inputs(config.out, inputs)
