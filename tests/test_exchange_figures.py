"""What a reader of an exchange rate sees: plots with intervals, tables and sentences."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exchange_studies import Study, noise
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image

from moonrec.exchange.answers import cautions, key_figures
from moonrec.exchange.figures import forest_figure, ranking_figure, scatter_figure
from moonrec.exchange.judge import Judge
from moonrec.exchange.measure_queries import LeftOut
from moonrec.exchange.observations import ALL, Metric, Outcome, Versions
from moonrec.exchange.plots import IMAGE_SEARCH, exchange_plots
from moonrec.exchange.ranking import exchange_rates
from moonrec.exchange.sections import Told, sections, terminal_lines
from moonrec.exchange.steps import steps
from moonrec.exchange.words import interval_text, metric_label, slope_text, unit_of, value_text

NAMES = [f"run/1-{number:02}" for number in range(7)] + ["decoy"]
VERSIONS = Versions(NAMES, ["run"] * 7 + ["decoy"])
TRAININGS = Versions(NAMES, ["a", "a", "b", "b", "c", "c", "d", "decoy"])


def _observed() -> tuple[list[Metric], list[Outcome]]:
    """Taste decides AUC; image search follows it but for the decoy; loss falls as taste rises."""
    study = Study(
        scatter=0.0003, seed_noise=0.0005, queries=noise(0.02, own=0.004), users=noise(0.004, 0.0003)
    )
    taste, auc = study.draw(np.random.default_rng(0))
    # The decoy is the first version, and finds what users do not care about.
    taste.value_V[7] = taste.value_V[0] + 0.001
    auc.value_VS[7] = auc.value_VS[0] + [0.0004, -0.0003, 0.0001]
    fooled_V = taste.value_V + 0.5 * (np.arange(8) == 7)
    loss_V = 3 - taste.value_V + np.tile([0.01, -0.01], 4)
    whole = [
        replace(taste, name="top3_cosine.auc"),
        replace(taste, name=IMAGE_SEARCH, value_V=fooled_V),
        Metric("retrieval.text_to_item.contrastive_loss", ALL, loss_V, None),
        Metric("agreement.image_text", ALL, np.ones(8), None),
    ]
    shoes = [replace(metric, domain="shoes") for metric in whole[:2]]
    return [*whole, *shoes], [auc, replace(auc, domain="shoes")]


def _told() -> Told:
    metrics, outcomes = _observed()
    return Told(
        rates=exchange_rates(metrics, outcomes, TRAININGS),
        steps=steps(metrics, outcomes, TRAININGS, [("run/1-00", "decoy")]),
        metrics=metrics,
        outcomes=outcomes,
        versions=TRAININGS,
        judge=Judge({"content": ["cube"], "epochs": 1}, {"test": "aa"}, 3),
        ids_only={"auc": {"mean": 0.5, "sd": 0.002}},
        left_out=[LeftOut("judge", "hats", "12 test impressions, fewer than 200")],
        notes=["These products are simulated."],
    )


def _axes(figure: Figure | None) -> Axes:
    assert figure is not None
    return figure.axes[0]


def _half_widths(container: ErrorbarContainer) -> tuple[np.ndarray, np.ndarray]:
    """Of the horizontal and of the vertical bars."""
    across, up = (np.array(lines.get_segments()) for lines in container.lines[2])
    return np.ptp(across[..., 0], axis=1) / 2, np.ptp(up[..., 1], axis=1) / 2


def test_scatter_shows_every_version_with_bars_in_both_directions() -> None:
    metrics, outcomes = _observed()
    axes = _axes(scatter_figure(metrics[0], outcomes[0], VERSIONS))
    run, decoy = axes.containers
    across, up = _half_widths(run)
    assert len(across) + len(_half_widths(decoy)[0]) == 8
    # Luck that all share is no difference; of each one's own, the mean of all takes an eighth.
    assert across == pytest.approx(1.96 * 0.004 * np.sqrt(7 / 8), rel=1e-3)
    assert 100 * 1.96 * 0.0003 < up.min() < up.max() < 100 * 0.002
    assert {text.get_text() for text in axes.texts} == set(NAMES)
    assert axes.collections, "the band of the line"


def test_scatter_counts_the_outcome_from_the_reference() -> None:
    metrics, outcomes = _observed()
    axes = _axes(scatter_figure(metrics[0], outcomes[0], VERSIONS, "decoy"))
    assert axes.containers[1].lines[0].get_ydata() == pytest.approx([0.0])
    mean_V = outcomes[0].value_VS.mean(axis=1)
    expected = 100 * (mean_V[:7] - mean_V[7])
    assert axes.containers[0].lines[0].get_ydata() == pytest.approx(list(expected))


def test_many_versions_leave_room_for_the_names_that_stand_out() -> None:
    metric, outcome = Study(versions=60, seeds=1).draw(np.random.default_rng(1))
    value_VS = outcome.value_VS.copy()
    value_VS[17] = 0.9
    names = [f"v{number}" for number in range(60)]
    axes = _axes(scatter_figure(metric, replace(outcome, value_VS=value_VS), Versions(names, names)))
    shown = {text.get_text() for text in axes.texts}
    assert len(shown) < 20
    assert "v17" in shown


def test_scatter_of_a_constant_metric_has_no_line_and_one_version_no_plot() -> None:
    _, outcomes = _observed()
    constant = Metric("constant", ALL, np.ones(8), None)
    axes = _axes(scatter_figure(constant, outcomes[0], VERSIONS))
    assert len(axes.lines) == sum(len(c.lines[1]) + 1 for c in axes.containers)
    alone = Metric("alone", ALL, np.array([1.0] + [np.nan] * 7), None)
    assert scatter_figure(alone, outcomes[0], VERSIONS) is None


def test_forest_leaves_hollow_what_is_not_established() -> None:
    rates = _told().rates
    own = [rate for rate in rates if rate.metric == "top3_cosine.auc"]
    hollow = replace(own[1], established=False)
    axes = _axes(forest_figure([own[0], hollow]))
    assert [c.lines[0].get_markerfacecolor() for c in axes.containers] == ["C0", "white"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["all items", "shoes"]
    assert forest_figure([replace(own[0], slope=None)]) is None


def test_ranking_bars_are_errors_relative_to_the_mean() -> None:
    rates = [rate for rate in _told().rates if rate.domain == ALL]
    axes = _axes(ranking_figure(rates))
    widths = [bar.get_width() for bar in axes.patches]
    shown = [rate for rate in rates if rate.loo_error is not None]
    assert widths == pytest.approx([rate.loo_error / rate.loo_error_mean for rate in shown])
    assert widths[0] < 0.5
    assert ranking_figure([replace(rates[0], loo_ratio=None)]) is None


def test_plots_show_ranking_and_what_readers_ask_for_at_phone_width() -> None:
    told = _told()
    plots = exchange_plots(told.metrics, told.outcomes, TRAININGS, told.rates)
    assert [plot.name for plot in plots] == [
        "ranking-auc",
        "versions-auc-top3-cosine-auc",
        "domains-auc-top3-cosine-auc",
        "versions-auc-retrieval-image-to-item-hit-10",
        "domains-auc-retrieval-image-to-item-hit-10",
    ]
    for plot in plots:
        buffer = io.BytesIO()
        plot.figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        with Image.open(buffer) as image:
            assert 300 < image.width < 800
        assert "95 %" in plot.caption or "Filled" in plot.caption


def test_first_section_answers_and_ranks() -> None:
    first, ranked = sections(_told())[:2]
    assert not first.tables
    assert first.texts[0].startswith("AUC: top-3 cosine, AUC tells most.")
    assert "image → item, hit@10 is number 3 of 4 (not established" in first.texts[0]
    caption, lines = ranked.tables[0]
    assert caption == "AUC, best metric first"
    assert {line["versions"] for line in lines} == {"8"}
    assert [line["established"].split(":")[0] for line in lines] == ["yes", "yes", "no", "no"]
    assert "(less is better)" in lines[1]["metric"]
    assert "same for every version" in lines[3]["established"]


def test_sections_tell_the_gain_that_is_worth_nothing_and_the_version_that_promises_too_much() -> None:
    found = {part.heading: part for part in sections(_told())}
    own = [
        caption
        for caption, lines in found["Single steps"].tables
        for line in lines
        if line["metric"] == "image → item, hit@10"
    ]
    assert len(own) == 1
    assert own[0].startswith("From run/1-00 to decoy, AUC ")
    assert own[0].endswith(": worth nothing: the study excludes what the rate of the others promises")
    assert any("decoy promises most that it does not keep" in text for text in found["Versions"].texts)
    assert dict(found["Versions"].tables[0][1][-1])["version"] == "ids alone"


def test_sections_tell_the_judge_and_what_cannot_be_concluded() -> None:
    told = _told()
    found = {part.heading: part for part in sections(told)}
    values = {line[""]: line["value"] for line in found["The judge"].tables[0][1]}
    assert values["fingerprint"] == told.judge.fingerprint
    assert values["content"] == '["cube"]'
    text = " ".join(found["How to read this"].texts)
    assert "These products are simulated." in found["What the metrics are worth"].texts
    for words in ("not a cause", "8 versions are of 5 families", "Holm"):
        assert words in text
    assert found["Left out"].tables[0][1][0]["why"] == "12 test impressions, fewer than 200"


def test_terminal_names_the_best_metric_and_where_the_rest_stands(tmp_path: Path) -> None:
    lines = terminal_lines(_told(), tmp_path)
    assert lines[0].startswith("AUC: top-3 cosine, AUC tells most")
    assert any(line.startswith("run/1-00 → decoy, image → item, hit@10:") for line in lines)
    assert lines[-1] == f"Report: {tmp_path / 'report.html'}"


def test_a_rate_that_is_not_established_is_no_figure_in_large_type() -> None:
    (first, value, note), (image, nothing, why) = key_figures(_told().rates)
    assert first == "AUC points per point of top-3 cosine, AUC"
    assert isinstance(value, str)
    assert value.startswith("+")
    assert note.endswith("; tells most")
    assert image == "AUC points per point of image → item, hit@10"
    assert (nothing, why.split(":")[0]) == (None, "not established")


def test_no_rate_is_told_in_words(tmp_path: Path) -> None:
    told = replace(_told(), rates=[], steps=[], outcomes=[])
    assert "nothing can be told" in sections(told)[0].texts[0]
    assert "Every metric" not in [part.heading for part in sections(told)]
    assert "nothing can be told" in terminal_lines(told, tmp_path)[0]


def test_labels_and_intervals_for_readers() -> None:
    assert metric_label("retrieval.text_to_image.ndcg@10") == "text → image, ndcg@10"
    assert metric_label("top3_cosine.gauc") == "top-3 cosine, GAUC"
    assert interval_text(0.1234, 0.05, None) == "+0.123"
    assert interval_text(-0.5, -0.75, -0.25, 100, 1) == "-50.0 [-75.0, -25.0]"
    assert interval_text(None, None, None) == "–"


def test_small_numbers_keep_two_digits_of_their_interval() -> None:
    assert interval_text(-0.0004, -0.00071, 0.0003) == "-0.00040 [-0.00071, +0.00030]"
    assert interval_text(0.000123, None, None) == "+0.00012"
    assert interval_text(0.0, 0.0, 0.0) == "+0.000 [+0.000, +0.000]"


def test_losses_are_told_in_nats_and_cosines_as_they_are() -> None:
    told = _told()
    loss = "retrieval.text_to_item.contrastive_loss"
    rate = next(rate for rate in told.rates if rate.metric == loss)
    assert slope_text(rate).startswith(f"{100 * rate.slope:+.1f}")
    assert [unit_of(name).step for name in (loss, "agreement.image_text", "top3_cosine.auc")] == [
        "nat", "0.01", "point",
    ]  # fmt: skip
    assert value_text(loss, 6.5941) == "6.594"
    assert value_text("agreement.image_text", 0.1234) == "0.123"
    assert value_text("top3_cosine.auc", 0.6123) == "61.23"
    assert value_text("top3_cosine.auc", float("nan")) == "–"


def test_tables_tell_the_unit_of_every_change_and_slope() -> None:
    found = {part.heading: part for part in sections(_told())}
    ranked = {line["metric"]: line for line in found["Every metric"].tables[0][1]}
    changed = {line["metric"]: line for _, lines in found["Single steps"].tables for line in lines}
    for label, unit, per in (
        ("text → item, contrastive loss (less is better)", "nats", "nat"),
        ("agreement, image text", "cosine", "0.01"),
        ("image → item, hit@10", "points", "point"),
    ):
        assert changed[label]["its change"].endswith(f" {unit}")
        assert changed[label]["per"] == ranked[label]["per"] == per
    # Recall rose by about half: 50 points, and the loss by a hundredth of a nat.
    assert float(changed["image → item, hit@10"]["its change"].split()[0]) == pytest.approx(50, abs=1)


def test_axes_are_in_the_unit_of_the_metric() -> None:
    metrics, outcomes = _observed()
    for metric, label, tick in ((metrics[2], ", nats", "2.5"), (metrics[0], ", points", "250")):
        axes = _axes(scatter_figure(metric, outcomes[0], VERSIONS))
        assert axes.get_xlabel().endswith(label)
        assert axes.xaxis.get_major_formatter()(2.5, 0) == tick
    rates = [rate for rate in _told().rates if rate.metric.endswith("contrastive_loss")]
    axes = _axes(forest_figure(rates))
    assert axes.containers[0].lines[0].get_xdata() == pytest.approx([100 * rates[0].slope])
    assert axes.get_xlabel() == "points of AUC per nat of the metric"


def test_the_answer_says_on_what_it_hangs_and_how_many_metrics_were_tried() -> None:
    best = replace(
        _told().rates[0], domain=ALL, established=True, p_holm=0.2,
        most_influential="hot", slope_without_it=0.1, established_without_it=False,
    )  # fmt: skip
    told = " ".join(cautions([best]))
    assert "hangs on hot" in told
    assert "1 metrics were tried; after Holm's correction for that, 0 of" in told
    assert "hangs" not in " ".join(cautions([replace(best, established_without_it=True)]))
    assert not cautions([replace(best, established=False)])
