"""The statistics of relevance against scikit-learn, and what the small model learns and keeps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from encoders.relevance.design import Design, Form
from encoders.relevance.fitting import COSINE_ALONE, TrainingPairs, fit_relevance
from encoders.relevance.model import FILE, RelevanceModel, Setting
from encoders.relevance.ranked_pairs import RankedPairs, point, resampled
from encoders.relevance.within_queries import query_auc
from moonrec.calibration import calibration
from moonrec.errors import UserError
from moonrec.metrics import gauc

NAMES = ("cosine", "words_words", "share")
SETTING = Setting("compact", "f", 8, "c", NAMES, ())


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.integers(0, 3)),
        min_size=2, max_size=40,
    )
)  # fmt: skip
def test_weighted_auc_and_average_precision_are_those_of_scikit_learn(
    rows: list[tuple[bool, float, int]],
) -> None:
    label, score, weight = (np.array(column) for column in zip(*rows, strict=True))
    found = RankedPairs(label, score, np.arange(len(rows)))(weight[None].astype(float))[0]
    if min(weight[label].sum(), weight[~label].sum()) == 0:
        assert np.isnan(found).all()
        return
    assert found[0] == pytest.approx(roc_auc_score(label, score, sample_weight=weight))
    assert found[1] == pytest.approx(average_precision_score(label, score, sample_weight=weight))


def test_a_resampled_query_brings_all_its_pairs() -> None:
    rng = np.random.default_rng(0)
    query, label, score = rng.integers(0, 9, 60), rng.random(60) < 0.4, rng.random(60)
    found = resampled(label, [score, -score], query, 50, seed=3)
    assert found.shape == (50, 2, 2)
    np.testing.assert_allclose(found[:, 0, 0] + found[:, 1, 0], 1)
    # With a single query every replicate is the whole.
    alone = resampled(label, [score], np.zeros(60, int), 5, seed=3)
    np.testing.assert_allclose(alone[:, 0], np.tile(point(label, score), (5, 1)))


def test_auc_within_queries_is_the_group_auc_and_resamples_whole_queries() -> None:
    rng = np.random.default_rng(0)
    query, label, score = rng.integers(0, 12, 90), rng.random(90) < 0.4, rng.random(90)
    label[query == 3] = False
    values, drawn = query_auc(label, [score, -score], query, 40, seed=1)
    assert values[0] == pytest.approx(gauc(query, label, score))
    np.testing.assert_allclose(drawn.sum(axis=1), 1)
    assert drawn[:, 0].std() > 0
    both = query == query[np.flatnonzero(label)[0]]
    alone, same = query_auc(label[both], [score[both]], query[both], 5, seed=1)
    np.testing.assert_allclose(same, np.tile(alone, (5, 1)))
    one_label, nothing = query_auc(np.ones(4, bool), [score[:4]], np.arange(4), 3, seed=0)
    assert np.isnan(one_label).all()
    assert nothing.shape == (3, 1)


def market(queries: int, seed: int, *, several: bool = True) -> TrainingPairs:
    """Pairs whose relevance hangs on the words in text queries and on the cosine in photo queries."""
    rng = np.random.default_rng(seed)
    query_P = np.repeat(np.arange(queries), 6)
    modality_P = (query_P % 2) * int(several)
    feature_PF = rng.normal(size=(len(query_P), 3)) * [0.1, 0.1, 2] + [0.4, 0.5, -3]
    feature_PF[modality_P == 0, 1] = np.nan
    z = (feature_PF - [0.4, 0.5, -3]) / [0.1, 0.1, 2]
    logit = -0.5 + np.where(modality_P == 0, 1.8 * z[:, 0], 2 * np.nan_to_num(z[:, 1]) - 0.5 * z[:, 0])
    label_P = rng.random(len(query_P)) < 1 / (1 + np.exp(-logit))
    return TrainingPairs(feature_PF, modality_P, query_P, label_P)


def test_the_model_finds_what_differs_by_modality_and_is_calibrated_on_new_queries() -> None:
    fitted, new = fit_relevance(market(400, 0), SETTING, seed=0), market(400, 1)
    alone = fit_relevance(market(400, 0), SETTING, 0, [COSINE_ALONE])
    assert fitted.chosen["form"] in ("linear by modality", "curved by modality")
    probability = fitted.model(new.feature_PF, new.modality_P)
    better, worse = (
        point(new.label_P, one(new.feature_PF, new.modality_P))[0] for one in (fitted.model, alone.model)
    )
    assert better > worse + 0.1
    assert calibration(new.label_P, probability)["error"] < 0.04
    assert {one["form"] for one in fitted.tried} >= {"cosine", "linear", "curved"}


def test_a_model_of_the_cosine_alone_keeps_the_order_of_cosines() -> None:
    pairs = market(60, 0)
    alone = fit_relevance(pairs, SETTING, 0, [COSINE_ALONE]).model
    found = alone(pairs.feature_PF, pairs.modality_P)
    assert (np.argsort(found, kind="stable") == np.argsort(pairs.feature_PF[:, 0], kind="stable")).all()


def test_noise_gives_everybody_about_the_same_probability() -> None:
    rng = np.random.default_rng(0)
    pairs = market(100, 0)
    noise = TrainingPairs(pairs.feature_PF, pairs.modality_P, pairs.query_P, rng.random(600) < 0.3)
    found = fit_relevance(noise, SETTING, 0).model(pairs.feature_PF, pairs.modality_P)
    assert np.abs(found - noise.label_P.mean()).max() < 0.2


def test_queries_of_a_modality_that_was_not_learnt_have_no_relevance() -> None:
    model = fit_relevance(market(60, 0, several=False), SETTING, 0).model
    feature = np.array([[0.4, 0.5, -3.0]] * 3)
    found = model(feature, np.array([0, 1, 2]))
    assert np.isnan(found).tolist() == [False, True, True]


def test_an_absence_is_flagged_only_where_the_query_could_have_had_the_feature() -> None:
    pairs = market(60, 0)
    feature_PF = pairs.feature_PF.copy()
    without = np.flatnonzero(pairs.modality_P == 1)[::9]
    feature_PF[without, 1] = np.nan
    design = Design.fitted(Form("linear"), NAMES, feature_PF, pairs.modality_P)
    names = design.input_names(("image", "text", "both"))
    flag_P = design(feature_PF, pairs.modality_P)[:, names.index("no words_words")]
    assert np.flatnonzero(flag_P).tolist() == without.tolist()


def test_a_saved_model_is_the_same_to_the_bit_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    pairs = market(80, 0)
    model = fit_relevance(pairs, SETTING, 0).model
    (tmp_path / "model").mkdir()
    model.save(tmp_path / "model")
    loaded = RelevanceModel.load(tmp_path)
    assert loaded.setting == model.setting
    asked = pairs.feature_PF, pairs.modality_P
    assert (loaded(*asked) == model(*asked)).all()
    file = tmp_path / "model" / FILE
    whole = json.loads(file.read_text())
    design, setting = whole["design"], whole["setting"]
    changes = [
        {"weights": whole["weights"][1:]},
        {"intercept": None},
        {"format": 9},
        {"design": design | {"columns": [0, 1, 99]}},
        {"design": design | {"columns": [], "mean_F": [], "scale_F": [], "knots_FH": []}},
        {"design": design | {"mean_F": ["x"] * 3}},
        {"design": design | {"scale_F": [1.0, 0.0, 1.0]}},
        {"design": design | {"knots_FH": [[float("nan")] * 3] * 3}},
        {"design": design | {"modalities": [1, 1]}},
        {"design": design | {"form": design["form"] | {"hidden": 8}}},
        {"setting": setting | {"dim": "8"}},
        {"setting": setting | {"levels": [0]}},
        {"setting": setting | {"encoder": ["compact"]}},
        {"setting": []},
    ]
    for change in changes:
        file.write_text(json.dumps(whole | change))
        with pytest.raises(UserError, match="is damaged") as told:
            RelevanceModel.load(tmp_path)
        assert len(str(told.value)) < 1000
    for content, words in (
        (b"{", "is not the JSON"),
        (b"[]", "expected a JSON object"),
        (b" " * 2**25, "larger"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=words):
            RelevanceModel.load(tmp_path)
    with pytest.raises(UserError, match="holds no relevance model"):
        RelevanceModel.load(tmp_path / "elsewhere")


def test_few_queries_one_label_and_equal_features_are_told() -> None:
    few = market(10, 0)
    with pytest.raises(UserError, match="10 distinct queries"):
        fit_relevance(few, SETTING, 0)
    pairs = market(30, 0)
    all_taken = TrainingPairs(pairs.feature_PF, pairs.modality_P, pairs.query_P, np.ones(180, bool))
    with pytest.raises(UserError, match="too few negatives"):
        fit_relevance(all_taken, SETTING, 0)
    flat = TrainingPairs(np.ones((180, 3)), pairs.modality_P, pairs.query_P, pairs.label_P)
    with pytest.raises(UserError, match="all pairs are equal"):
        fit_relevance(flat, SETTING, 0)
