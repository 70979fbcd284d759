"""`moonrec report`: runs side by side, what differs between them, whose pictures are shown."""

from __future__ import annotations

import base64
import io
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from compare_case import HOSTILE, ctr_metrics, jpeg, page_of, write_run
from matplotlib.text import Text
from PIL import Image

from moonrec.compare.numbers import Numbers
from moonrec.compare.panels import panel_figure
from moonrec.errors import UserError


def test_runs_stand_side_by_side_with_differences_and_the_best_marked(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "ids", ctr_metrics(0.60, 0.5)),
        write_run(tmp_path / "cube", ctr_metrics(0.62, 0.4)),
    ]
    page = page_of(tmp_path, *runs)
    assert '<strong>0.6200</strong><span class="note">+0.0200</span>' in page
    assert '<strong>0.4000</strong><span class="note">−0.1000</span>' in page  # less log loss is better
    assert "<strong>100</strong>" not in page  # more rows are neither better nor worse
    assert "groups.new.auc" in page


def test_equal_values_have_no_best(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, ctr_metrics(0.6, 0.5)) for name in "ab"]
    assert "<strong>" not in page_of(tmp_path, *runs)


def test_only_options_that_differ_are_open(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, ctr_metrics(0.6, 0.5), config={"seed": 0, "content": [name], "out": name})
        for name in ("sata", "cube")
    ]
    page = page_of(tmp_path, *runs)
    opened = page[page.index("Options that differ") : page.index("All options")]
    assert "<td>content</td><td>sata</td><td>cube</td>" in opened
    assert "seed" not in opened
    assert "<td>seed</td><td>0</td><td>0</td>" in page
    assert "<td>out</td>" not in page


def test_other_test_rows_are_warned_of_and_other_embeddings_are_not(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", ctr_metrics(0.6, 0.5), inputs={"test": "aa", "embeddings": "1"})
    same = write_run(tmp_path / "b", ctr_metrics(0.6, 0.5), inputs={"test": "aa", "embeddings": "2"})
    other = write_run(tmp_path / "c", ctr_metrics(0.6, 0.5), inputs={"test": "bb", "embeddings": "1"})
    assert "not comparable" not in page_of(tmp_path, first, same)
    assert "differ in test, on which" in page_of(tmp_path, first, other)


def test_curves_of_runs_are_drawn_over_each_other(tmp_path: Path) -> None:
    lines = [
        {"round": "1", "epoch": e, "loss": None if e == 0 else 1 / e, "recall@10": e / 9} for e in range(4)
    ]
    history = "".join(json.dumps(line) + "\n" for line in lines)
    runs = [
        write_run(tmp_path / name, {"validation": {"best": {"recall@10": 0.5}}}, "posttrain", history)
        for name in "ab"
    ]
    page = page_of(tmp_path, *runs)
    section = page[page.index("Learning curves") : page.index("What differs")]
    assert section.count("<img") == 2
    assert section.index('alt="loss"') < section.index('alt="recall@10"')


def test_the_same_fixed_query_is_shown_for_each_run(tmp_path: Path) -> None:
    def examples(answer: str) -> dict[str, Any]:
        query = {"image": jpeg("red"), "label": "asked", "note": "", "hit": None}
        result = {"image": jpeg("blue"), "label": answer, "note": "0.9", "hit": True}
        other = {
            "kind": "best",
            "rank": 1,
            "query": query | {"label": f"best of {answer}"},
            "results": [result],
        }
        fixed = {"kind": "fixed", "rank": 0, "query": query, "results": [result]}
        return {"tasks": {"image_to_item": [other, fixed]}, "neighbours": []}

    runs = [
        write_run(tmp_path / name, {}, "evaluate", examples=examples(f"found by {name}")) for name in "ab"
    ]
    page = page_of(tmp_path, *runs)
    shared = page[page.index("The same queries") : page.index("Pictures of a")]
    assert shared.count(">asked<") == 2
    assert shared.index("found by a") < shared.index("found by b")
    assert "best of" not in shared
    assert "no hit" in shared


def test_a_large_picture_is_shrunk(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((900, 900), 90).save(buffer, format="PNG")
    query = {"image": base64.b64encode(buffer.getvalue()).decode(), "label": "noise"}
    examples = {"neighbours": [{"query": query, "results": []}]}
    run = write_run(tmp_path / "run", {}, "evaluate", examples=examples)
    assert len(page_of(tmp_path, run)) < 60_000 < len(query["image"])


def test_a_page_replaces_an_older_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ctr_metrics(0.6, 0.5))
    assert page_of(tmp_path, run) == page_of(tmp_path, run)


def test_names_are_given_in_order_and_one_each(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, ctr_metrics(0.6, 0.5)) for name in "ab"]
    assert "first" in page_of(tmp_path, *runs, names=("first", HOSTILE))
    for names in (("one",), ("same", "same"), ("x" * 61, "y")):
        with pytest.raises(UserError, match="--name"):
            page_of(tmp_path, *runs, names=names)
    with pytest.raises(UserError, match="more than once"):
        page_of(tmp_path, runs[0], runs[0] + "/../a")


def test_folders_of_one_name_are_told_apart_by_those_above(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / seed / "run", ctr_metrics(0.6, 0.5)) for seed in ("s0", "s1")]
    assert "s0/run · s1/run" in page_of(tmp_path, *runs)


def test_runs_of_other_commands_stand_in_their_own_sections(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "ranker", ctr_metrics(0.6, 0.5)),
        write_run(tmp_path / "eval", {"retrieval": {"image_to_item": {"hit@10": 0.8}}}, "evaluate"),
        write_run(tmp_path / "unheard", {"score": {"accuracy": 0.25}}, "of-tomorrow"),
    ]
    page = page_of(tmp_path, *runs)
    order = [
        "<h2>moonrec train-ctr",
        "0.6000",
        "<h2>moonrec evaluate",
        "0.8000",
        "<h2>moonrec of-tomorrow",
        "0.2500",
    ]
    assert [page.index(text) for text in order] == sorted(page.index(text) for text in order)


def test_a_demo_is_a_run_of_its_own_kind(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    found = {"ctr": [{"model": "ids only", "auc": 0.61}], "ceiling_auc": 0.7}
    (tmp_path / "demo" / "demo.json").write_text(json.dumps(found))
    page = page_of(tmp_path, str(tmp_path / "demo"))
    assert "moonrec demo" in page
    assert "<dd>0.6100</dd>" in page


def test_what_runs_say_of_themselves_stands_first(tmp_path: Path) -> None:
    def told(value: float | None, note: str) -> dict[str, Any]:
        figures = [{"label": "points per point", "value": value, "note": note}]
        verdicts = [f"verdict: {note}"]
        return {"rates": [], "key_figures": figures, "verdicts": verdicts, "notes": ["simulated data"]}

    runs = [
        write_run(tmp_path / "a", told(0.5, "sure"), "exchange-rate"),
        write_run(tmp_path / "b", told(None, "not established: few"), "exchange-rate"),
    ]
    one = page_of(tmp_path, runs[0])
    assert (
        one.index("0.5000") < one.index("simulated data") < one.index("verdict: sure") < one.index("Numbers")
    )
    assert one.count("simulated data") == 1
    both = page_of(tmp_path, *runs)
    assert '–<span class="note">not established: few</span>' in both
    assert both.count('<p class="warning" role="note">simulated data</p>') == 1
    assert "b: verdict: not established: few" in both


def test_scaling_studies_stand_beside_those_of_their_axis_only(tmp_path: Path) -> None:
    def study(name: str, axis: str, **inputs: str) -> str:
        points = [{"x": 2.0**n, "setting": 2**n, "mean": 0.5 + n / 100, "sd": 0.01} for n in range(3)]
        metrics = {"axis": axis, "metrics": {"test.auc": {"points": points}}}
        return write_run(tmp_path / name, metrics, "scaling", inputs=inputs)

    runs = [
        study("a", "history", test="1", events="1", impressions="1"),
        study("b", "tokens", test="1", items="1", events="1", searches="1"),
        study("c", "history", test="1", events="1", impressions="2"),
        study("d", "tokens", test="1", items="1", events="2", searches="2"),
    ]
    page = page_of(tmp_path, *runs)
    assert "not comparable" not in page
    assert page.index("scaling over history</h2>") < page.index("scaling over tokens</h2>")
    assert page.count("AUC · points · x 4") == 2
    assert "Arrows" not in page
    other = study("e", "history", test="1", events="2")
    assert "differ in events, on which" in page_of(tmp_path, runs[0], other)


def test_titles_of_panels_do_not_run_into_each_other() -> None:
    names = [f"rates.retrieval.image_to_item.hit@10 {name} auc.of.a.long.name.mean" for name in "abc"]
    figure = panel_figure(names, [("run", Numbers(dict.fromkeys(names, 0.5)))])
    figure.canvas.draw()
    boxes = [
        title.get_window_extent() for axes in figure.axes for title in axes.get_children()
        if isinstance(title, Text) and title.get_text()
    ]  # fmt: skip
    assert len(boxes) == 3
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)
