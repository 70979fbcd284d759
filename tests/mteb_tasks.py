"""Tasks of the real mteb over tables of ours, without its hub; imported late, since mteb takes seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, Image
from mteb.abstasks import AbsTaskRetrieval, AbsTaskZeroShotClassification
from mteb.abstasks.task_metadata import TaskMetadata

Row = Mapping[str, Any]
SPLIT, SUBSET = "test", "default"


def data_set(rows: Sequence[Row]) -> Dataset:
    """Rows with `image`, the files of pictures, as mteb has them: an image column that decodes when read."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    if "image" in columns:
        columns["image"] = [{"bytes": image, "path": None} for image in columns["image"]]
        return Dataset.from_dict(columns).cast_column("image", Image())
    return Dataset.from_dict(columns)


def retrieval_task(
    name: str,
    category: str,
    queries: Sequence[Row],
    corpus: Sequence[Row],
    positives: Mapping[str, Sequence[str]],
) -> AbsTaskRetrieval:
    """Rows with `id` and what the category names of `text` and `image`; `positives` by the query's id."""

    class Local(AbsTaskRetrieval):
        metadata = _metadata(name, "Any2AnyRetrieval", category, "ndcg_at_10")
        k_values = (1, 5, 10, 50, 1000)

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            relevant = {query: dict.fromkeys(items, 1) for query, items in positives.items()}
            data = {"queries": data_set(queries), "corpus": data_set(corpus)}
            self.dataset = {SUBSET: {SPLIT: data | {"relevant_docs": relevant, "top_ranked": None}}}
            self.data_loaded = True

    return Local()


def zero_shot_task(name: str, rows: Sequence[Row], labels: Sequence[str]) -> AbsTaskZeroShotClassification:
    """Rows with `image`, `text` and `label`, one of `labels`."""

    class Local(AbsTaskZeroShotClassification):
        metadata = _metadata(name, "ZeroShotClassification", "it2t", "accuracy")
        input_column_name = ("image", "text")

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            self.dataset = {SPLIT: data_set(rows)}
            self.data_loaded = True

        def get_candidate_labels(self) -> list[str]:
            return list(labels)

    return Local()


def _metadata(name: str, kind: str, category: str, main_score: str) -> TaskMetadata:
    shown = {"t": "text", "i": "image"}
    return TaskMetadata(
        name=name,
        description="made from local tables",
        type=kind,
        category=category,
        modalities=sorted({shown[letter] for letter in category.replace("2", "")}),
        dataset={"path": "nowhere", "revision": "1"},
        eval_splits=[SPLIT],
        eval_langs=["eng-Latn"],
        main_score=main_score,
    )
