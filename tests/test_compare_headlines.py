"""Which numbers of a run stand in large type, and with which interval."""

from __future__ import annotations

from typing import Any

import pytest

from moonrec.compare.examples import examples_of
from moonrec.compare.key_figures import key_figures
from moonrec.compare.measures import direction
from moonrec.compare.numbers import numbers_of
from moonrec.compare.told import figures_of, notes_of, verdicts_of


def rate(metric: str, outcome: str, slope: float | None, domain: str = "all") -> dict[str, Any]:
    bounds = (
        {"ci_low": None, "ci_high": None} if slope is None else {"ci_low": slope - 1, "ci_high": slope + 1}
    )
    named = {"metric": metric, "domain": domain, "outcome": outcome}
    return {**named, "slope": slope, **bounds, "established": True}


RATES = [
    rate("top3_cosine.auc", "auc", 2.0),
    rate("retrieval.text_to_item.mrr", "auc", 3.0),
    rate("retrieval.image_to_item.hit@10", "auc", 4.0),
    rate("retrieval.image_to_item.hit@10", "gauc", 5.0),
    rate("top3_cosine.gauc", "gauc", None),
    rate("retrieval.image_to_item.hit@10", "auc", 9.0, "shoes"),
]
CURVE = {
    "points": [{"x": 1.0, "setting": 1, "values": [0.5, 0.6], "mean": 0.55, "sd": 0.05}],
    "fits": {
        "log": {"a": 0.5, "ci": {"a": [0.4, 0.6]}, "held_out_error": {"value": 0.1, "low": 0, "high": 1}}
    },
    "trend": "rises",
    "extrapolation": {"x": 64.0, "log": {"value": 0.7, "low": 0.6, "high": 0.8}},
}
ROW = {
    "study": "moon2",
    "row": "full",
    "metrics": {"train.seconds": {"mean": 9.0}, "retrieval.image_to_item.hit@10": {"seeds": 3, "mean": 0.8}},
}
EVALUATION = {
    "retrieval": {"image_to_item": {"mrr": 0.3, "hit@10": 0.6, "ci": {"hit@10": [0.5, 0.7]}}},
    "classification": {"level1": {"accuracy": 0.8}},
    "baselines": {"other": {"retrieval": {"image_to_item": {"hit@10": 0.4}}}},
}


@pytest.mark.parametrize(
    ("command", "metrics", "expected"),
    [
        (
            "exchange-rate",
            {"rates": RATES},
            [
                ("image to item · hit@10 all AUC · slope", 4.0, "3.0000 to 5.0000"),
                ("image to item · hit@10 all GAUC · slope", 5.0, "4.0000 to 6.0000"),
                ("top-3 cosine · AUC all AUC · slope", 2.0, "1.0000 to 3.0000"),
                ("text to item · MRR all AUC · slope", 3.0, "2.0000 to 4.0000"),
                ("image to item · hit@10 shoes AUC · slope", 9.0, "8.0000 to 10.0000"),
            ],
        ),
        (
            "exchange-rate",
            {"rates": RATES[:2]},
            [
                ("top-3 cosine · AUC · slope", 2.0, "1.0000 to 3.0000"),
                ("text to item · MRR · slope", 3.0, "2.0000 to 4.0000"),
            ],
        ),
        (
            "scaling",
            {"metrics": {"test.auc": CURVE}},
            [
                ("AUC · extrapolation · log", 0.7, "0.6000 to 0.8000"),
                ("AUC · points · x 1", 0.55, ""),
            ],
        ),
        ("ablate", {"rows": [ROW]}, [("moon2 · image to item · hit@10", 0.8, "")]),
        (
            "evaluate",
            EVALUATION,
            [
                ("image to item · hit@10", 0.6, "0.5000 to 0.7000"),
                ("classification · level1 · accuracy", 0.8, ""),
                ("image to item · MRR", 0.3, ""),
            ],
        ),
    ],
)
def test_the_first_numbers_of_a_command_are_those_that_it_is_run_for(
    command: str, metrics: dict[str, Any], expected: list[tuple[str, float, str]]
) -> None:
    assert key_figures(command, metrics, limit=8) == expected
    assert key_figures(command, metrics, limit=1) == expected[:1]


def test_an_interval_belongs_to_the_number_before_it() -> None:
    numbers = numbers_of(
        {"step": {"p": 0.5, "difference": 2, "ci_low": 1, "ci_high": 3}, "low": 0, "high": 1}
    )
    assert numbers.values == {"step.p": 0.5, "step.difference": 2, "low": 0, "high": 1}
    assert numbers.intervals == {"step.difference": (1.0, 3.0)}
    half = numbers_of({"difference": 2, "ci_low": None, "ci_high": 3})
    assert half.values == {"difference": 2, "ci_low": None, "ci_high": 3}


def test_a_mean_is_better_in_the_direction_of_what_it_is_the_mean_of() -> None:
    assert direction("rows.moon2.metrics.retrieval.image_to_item.hit@10.mean") == 1
    assert direction("validation.loss.mean") == -1
    # The error of one held-out point has a sign.
    assert direction("metrics.auc.fits.log.held_out_error.value") == 0


def test_examples_of_five_tasks_are_all_read() -> None:
    entry = {"kind": "fixed", "rank": 1, "query": {"label": "mug"}, "results": []}
    assert len(examples_of({"tasks": {f"task{number}": [entry] * 13 for number in range(5)}})) == 65


def test_a_rate_that_is_not_established_is_told_with_its_reason_and_without_its_number() -> None:
    one = rate("top3_cosine.auc", "auc", -0.0132) | {"established": False, "why_not": "5 versions are few"}
    ((_, value, note),) = key_figures("exchange-rate", {"rates": [one]}, limit=8)
    assert (value, note) == (None, "not established: 5 versions are few")
    unsaid = {name: value for name, value in one.items() if name not in ("established", "why_not")}
    ((_, value, note),) = key_figures("exchange-rate", {"rates": [unsaid]}, limit=8)
    assert (value, note) == (None, "not established")


def test_what_a_run_chose_itself_comes_before_what_its_command_is_known_for() -> None:
    chosen = [{"label": "AUC at 32", "value": 0.61, "note": "± 0.01"}, {"label": "at 64", "value": None}]
    metrics = EVALUATION | {"key_figures": chosen}
    assert key_figures("evaluate", metrics, limit=8) == [("AUC at 32", 0.61, "± 0.01"), ("at 64", None, "")]
    assert key_figures("evaluate", metrics, limit=1) == [("AUC at 32", 0.61, "± 0.01")]
    assert len(key_figures("evaluate", EVALUATION | {"key_figures": [5, {"value": 1}]}, limit=8)) == 3


@pytest.mark.parametrize("value", [True, [1], {"a": 1}, float("nan"), float("inf"), None])
def test_a_key_figure_of_another_form_has_no_number(value: object) -> None:
    assert figures_of({"key_figures": [{"label": "x", "value": value, "note": 7}]}, 8) == [("x", None, "")]


def test_long_and_false_sentences_are_cut_and_passed_over() -> None:
    found = {"verdicts": ["x" * 9000, 5, "", None, ["y"]], "notes": {"a": 1}, "warnings": ["mind"] * 99}
    (verdict,) = verdicts_of(found)
    assert len(verdict) < 1000
    assert notes_of(found) == ["mind"] * 20
    ((label, value, _),) = figures_of({"key_figures": [{"label": "x" * 999, "value": "7" * 999}]}, 8)
    assert len(label) < 200
    assert len(str(value)) < 60
