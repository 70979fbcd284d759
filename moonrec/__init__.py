"""moonrec: product pictures and words, frozen into embeddings, lifting ranking models.

The commands are functions too; each is imported when it is first used:

    import moonrec

    moonrec.posttrain(moonrec.PosttrainConfig(items="items.parquet", searches="searches.parquet", out="enc"))
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "simulate": "moonrec.simulation",
    "validate": "moonrec.validation",
    "EmbeddingSet": "moonrec.embedding_set",
    "EmbeddingSetWriter": "moonrec.embedding_set",
    "import_embeddings": "moonrec.embedding_import",
    "UserError": "moonrec.errors",
    "PretrainConfig": "encoders.pretrain",
    "pretrain": "encoders.pretrain",
    "PosttrainConfig": "encoders.posttrain",
    "posttrain": "encoders.posttrain",
    "AugmentConfig": "encoders.augment.augment",
    "augment": "encoders.augment.augment",
    "ExportConfig": "encoders.export",
    "export": "encoders.export",
    "QueryExportConfig": "encoders.query_export",
    "export_queries": "encoders.query_export",
    "AblateConfig": "moonrec.cli.ablation",
    "ablate": "moonrec.cli.ablation",
    "ExchangeConfig": "moonrec.cli.exchange_study",
    "exchange_rate": "moonrec.cli.exchange_study",
    "ScalingConfig": "moonrec.cli.scaling_study",
    "scaling_laws": "moonrec.cli.scaling_study",
    "EvaluateConfig": "encoders.evaluate",
    "evaluate": "encoders.evaluate",
    "MtebEncoder": "encoders.evaluation.mteb_encoder",
    "CompareConfig": "moonrec.compare.compare",
    "compare_runs": "moonrec.compare.compare",
    "HeatmapConfig": "encoders.heatmap.heatmap",
    "heatmap": "encoders.heatmap.heatmap",
    "SearchConfig": "encoders.search.search",
    "search": "encoders.search.search",
    "RelevanceConfig": "encoders.relevance.train",
    "train_relevance": "encoders.relevance.train",
    "ScoreRelevanceConfig": "encoders.relevance.score",
    "score_relevance": "encoders.relevance.score",
    "TrainConfig": "ctr.train",
    "train_ctr": "ctr.train",
    "ScoreConfig": "ctr.scoring",
    "score": "ctr.scoring",
    "load_ctr": "ctr.saving",
    "RetrievalConfig": "ctr.retrieval.train",
    "train_retrieval": "ctr.retrieval.train",
    "load_retrieval": "ctr.retrieval.saving",
    "IndexConfig": "ctr.retrieval.index_items",
    "index_items": "ctr.retrieval.index_items",
    "RetrieveConfig": "ctr.retrieval.retrieve",
    "retrieve": "ctr.retrieval.retrieve",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'moonrec' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
