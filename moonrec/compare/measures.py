"""What a number of a run means: whether more is better, how it is called, which ones come first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moonrec.compare.numbers import is_finite_number

# Matched against the last part of a name. Anything else is a count or a setting, better in no direction.
_MORE = re.compile(
    r"(.*_)?(auc|gauc|accuracy|precision|f1|mrr|recall|samples_per_second|pairs_per_second"
    r"|(hit|recall|ndcg|precision)@[0-9/]+|image_text)(_weighted)?"
)
_LESS = re.compile(r"(.*_)?(loss|logloss|log_rank|loo_error|seconds)(@[0-9/]+)?")

_HEADLINES: Mapping[str, Sequence[str]] = {
    "train-ctr": (r"test\.(auc|gauc|logloss)", r"baseline\.top3_cosine\.(auc|gauc)"),
    "evaluate": (
        r"retrieval\.(image|text|item)_to_item\.hit@10", r"classification\.level1\.accuracy",
        r"retrieval\.\w+\.hit@10", r"classification\.\w+\.accuracy",
        r"attributes\.[^.]+\.accuracy", r"retrieval\.\w+\.mrr", r"agreement\.image_text",
    ),
    "posttrain": (r"validation\.best\.\w+@\d+", r"validation\.best\.\w+"),
    "pretrain": (r"validation\.best\.\w+@\d+", r"validation\.best\.\w+"),
    "ablate": (
        r"rows\..*\.metrics\.retrieval\.image_to_item\.hit@10\.mean",
        r"rows\..*\.metrics\.retrieval\.image_to_item\.hit@10\.difference\.mean",
    ),
    "exchange-rate": (
        # Without domains, or with a single outcome, a rate's name says neither.
        r"rates\.retrieval\.image_to_item\.hit@10( all)?( g?auc)?\.slope",
        r"rates\.top3_cosine\.(auc( all)?( auc)?|gauc( all)?( gauc)?)\.slope",
        r"rates\..* all( g?auc)?\.slope", r"rates\..*\.slope",
    ),
    "scaling": (
        r"metrics\..*\.extrapolation\.\w+\.value", r"metrics\..*\.points\.[^.]+\.mean",
    ),
    "demo": (r"image_search\..*\.hit@10", r"ctr\..*\.auc", r"ceiling_auc"),
}  # fmt: skip
_WORDS = {
    "auc": "AUC", "gauc": "GAUC", "logloss": "log loss", "mrr": "MRR", "ndcg@10": "NDCG@10", "f1": "F1",
    "top3": "top-3", "ci": "interval",
}  # fmt: skip
_SILENT = ("retrieval", "test", "metrics", "best", "rows", "rates", "mean", "value")


def direction(name: str) -> int:
    """1 where more is better, -1 where less is, 0 where neither is said."""
    last = name.removesuffix(".mean").rsplit(".", 1)[-1]
    if _LESS.fullmatch(last):
        return -1
    return 1 if _MORE.fullmatch(last) else 0


def label_of(name: str) -> str:
    """A dotted name in words: `retrieval.image_to_item.hit@10` is `image to item · hit@10`."""
    parts = name.split(".")
    kept = [part for part in parts if part not in _SILENT] or parts
    return " · ".join(" ".join(_WORDS.get(word, word) for word in re.split("[_ ]", part)) for part in kept)


def headline(command: str, values: Iterable[Mapping[str, Any]], limit: int) -> list[str]:
    """The names of at most `limit` numbers that a reader looks for first.

    Args:
        command: which wrote the runs; of one that is not known here, the first numbers with a direction.
        values: the leaves of each run.
        limit: how many.
    """
    names = list(
        dict.fromkeys(name for one in values for name, value in one.items() if is_finite_number(value))
    )
    chosen: dict[str, None] = {}
    for pattern in _HEADLINES.get(command, ()):
        chosen |= dict.fromkeys(name for name in names if re.fullmatch(pattern, name))
    return list(chosen or dict.fromkeys(name for name in names if direction(name)))[:limit]


def best_of(name: str, values: Sequence[Any]) -> set[int]:
    """The places of the best values; none where more is not better nor worse, or where all are equal."""
    sign = direction(name)
    numbers = {place: value for place, value in enumerate(values) if is_finite_number(value)}
    if not sign or len(set(numbers.values())) < 2:
        return set()
    best = max(sign * value for value in numbers.values())
    return {place for place, value in numbers.items() if sign * value == best}
