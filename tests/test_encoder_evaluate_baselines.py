"""Entrants side by side: the same numbers as alone, paired differences, equal widths, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoder_helpers import busy_encoder, picture, write_table

from encoders.evaluate import EvaluateConfig, evaluate
from encoders.evaluation.narrowing import Narrowing, principal_directions
from encoders.evaluation.tasks import TASKS
from encoders.export import ExportConfig, export
from moonrec.bootstrap import holm
from moonrec.embedding_set import EmbeddingSetWriter
from moonrec.errors import UserError

WORDS = ("red dress", "blue chair", "oak table", "wool scarf", "steel lamp")
RETRIEVAL = ("image_to_item", "text_to_item")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small shop, encoders of random weights with 32 and with 16 dimensions, and the first one's vectors.

    Search photos are those of items, so that image search works with an encoder and with vectors alone.
    """
    folder = tmp_path_factory.mktemp("baselines")
    items: list[dict[str, Any]] = [
        {
            "item_id": f"i{n:02}",
            "title": f"{WORDS[n % 5]} {n}",
            "category": f"Home > {WORDS[n % 2]}",
            "image": picture(n),
        }
        for n in range(24)
    ]
    searches: list[dict[str, Any]] = [
        {
            "query_image": picture(n),
            "query_text": f"{WORDS[n % 5]} of {n}",
            "query_item_id": f"i{n:02}",
            "item_id": f"i{(n + 5) % 24:02}",
        }
        for n in range(20)
    ]
    write_table(folder / "items.parquet", items)
    write_table(folder / "searches.parquet", searches)
    for seed, dim in ((0, 32), (1, 16)):
        busy_encoder(seed, dim).save_pretrained(folder / f"encoder{dim}")
    options: dict[str, Any] = {"encoder": str(folder / "encoder32"), "items": str(folder / "items.parquet")}
    export(ExportConfig(**options, out=str(folder / "set"), cache=str(folder / "cache"), device="cpu"))
    return folder


def evaluated(folder: Path, out: Path, **options: Any) -> dict[str, Any]:
    named = {name: str(folder / f"{name}.parquet") for name in ("items", "searches")}
    defaults = named | {"encoder": str(folder / "encoder32"), "cache": str(folder / "cache"), "device": "cpu"}
    return evaluate(EvaluateConfig(out=str(out), **(defaults | options)))


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[str, Any]:
    """Of an encoder beside itself, another one, and vectors alone."""
    paths = {"itself": "encoder32", "other": "encoder16", "vectors": "set"}
    baseline = tuple(f"{name}={folder / path}" for name, path in paths.items())
    return evaluated(folder, folder / "run", baseline=baseline)


def compared(metrics: dict[str, Any], **wanted: str | None) -> list[dict[str, Any]]:
    return [one for one in metrics["comparisons"] if all(one[key] == value for key, value in wanted.items())]


def test_a_baseline_has_the_numbers_that_it_has_alone(
    folder: Path, tmp_path: Path, measured: dict[str, Any]
) -> None:
    alone = evaluated(folder, tmp_path / "run", encoder=str(folder / "encoder16"))
    beside = measured["baselines"]["other"]
    for name in ("retrieval", "classification", "agreement", "domains", "dim", "left_out"):
        assert beside[name] == alone[name], name
    assert (measured["dim"], beside["dim"]) == (32, 16)


def test_nothing_differs_from_itself(measured: dict[str, Any]) -> None:
    found = compared(measured, baseline="itself")
    assert {one["task"] for one in found} == {
        *(f"retrieval.{task}" for task in TASKS[:5]), "classification.level2", "agreement"
    }  # fmt: skip
    for one in found:
        assert (one["difference"], one["ci_low"], one["ci_high"], one["p"]) == (0, 0, 0, 1)


def test_a_difference_is_that_of_the_same_queries(folder: Path, measured: dict[str, Any]) -> None:
    table = pq.read_table(folder / "run" / "queries.parquet").to_pylist()
    values = {(row["entrant"], row["task"], row["query_row"]): row["contrastive_loss"] for row in table}
    for domain, name in ((None, "all"), (WORDS[0], "one")):
        (one,) = compared(
            measured,
            baseline="other",
            task="retrieval.text_to_item",
            metric="contrastive_loss",
            domain=domain,
        )
        rows = [
            row["query_row"]
            for row in table
            if (row["entrant"], row["task"]) == ("main", "text_to_item") and domain in (None, row["domain"])
        ]
        differences = [
            values["main", "text_to_item", row] - values["other", "text_to_item", row] for row in rows
        ]
        assert one["count"] == len(rows) == (20 if name == "all" else 10)
        assert one["difference"] == pytest.approx(np.mean(differences), abs=1e-5)
        assert one["ci_low"] < one["difference"] < one["ci_high"]
        error = np.std(differences) / np.sqrt(len(rows))
        assert one["ci_high"] - one["ci_low"] == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_holms_correction_is_over_the_whole_catalogue_only(measured: dict[str, Any]) -> None:
    whole = compared(measured, baseline="other", domain=None)
    # Every query has one positive, so that recall@K is hit@K: one test, and no second one for Holm.
    tests = [one for one in whole if not one["metric"].startswith("recall@")]
    assert len(tests) == len(whole) - 20
    assert [one["p_holm"] for one in tests] == pytest.approx(holm([one["p"] for one in tests]))
    of = {(one["task"], one["metric"]): one["p_holm"] for one in whole}
    assert of["retrieval.image_to_item", "recall@5"] == of["retrieval.image_to_item", "hit@5"]
    parts = [one for one in compared(measured, baseline="other") if one["domain"] is not None]
    assert parts
    assert {one["p_holm"] for one in parts} == {None}


def test_vectors_alone_are_compared_in_what_they_can_do(measured: dict[str, Any]) -> None:
    found = compared(measured, baseline="vectors")
    assert {one["task"] for one in found} == {"retrieval.image_to_item"}
    assert {one["count"] for one in found if one["domain"] is None} == {20}
    baseline = measured["baselines"]["vectors"]
    assert set(baseline["retrieval"]) == {"image_to_item"}
    assert baseline["uncompared"]["text_to_item"] == "the baseline does not do it"
    assert baseline["catalogue"] == {"missing": 0, "others": 0, "shared": 24}
    assert baseline["paired"] == {"image_to_item": {"both": 20, "main": 20, "baseline": 20}}


def test_the_report_shows_all_entrants_side_by_side(folder: Path, measured: dict[str, Any]) -> None:
    page = (folder / "run" / "report.html").read_text()
    for text in ("Difference to other", "By category domain", "not compared", str(folder / "encoder16")):
        assert text in page
    assert "Difference to other in each domain" in page
    reason = "an embedding set alone encodes nothing; name its --encoder"
    assert page.count(reason) == 1  # one row, not one per task


def test_widths_are_matched_to_the_narrowest(folder: Path, tmp_path: Path, measured: dict[str, Any]) -> None:
    found = evaluated(
        folder,
        tmp_path / "run",
        baseline=(f"other={folder / 'encoder16'}",),
        match_dims=True,
        tasks=RETRIEVAL,
    )
    other = found["baselines"]["other"]
    assert (found["dim"], other["dim"]) == (16, 16)
    for task in RETRIEVAL:
        assert other["retrieval"][task] == measured["baselines"]["other"]["retrieval"][task]
        assert found["retrieval"][task] != measured["retrieval"][task]


def test_a_set_and_its_encoder_are_narrowed_alike(folder: Path, tmp_path: Path) -> None:
    """The principal directions of the vectors of a set are those of the catalogue that it was made from."""
    options: dict[str, Any] = {"dim": 6, "tasks": RETRIEVAL}
    encoded = evaluated(folder, tmp_path / "encoded", **options)
    ready = evaluated(folder, tmp_path / "ready", embeddings=str(folder / "set"), **options)
    assert encoded["dim"] == ready["dim"] == 6
    for task in RETRIEVAL:
        for name, value in encoded["retrieval"][task].items():
            if name not in ("ci", "queries_from"):
                assert ready["retrieval"][task][name] == pytest.approx(value, abs=0.06), (task, name)


def test_principal_directions_keep_cosines_better_than_a_prefix() -> None:
    rng = np.random.default_rng(0)
    vectors_NW = rng.normal(size=(500, 24)) @ (rng.normal(size=(24, 24)) * 0.8 ** np.arange(24)[:, None])
    vectors_NW /= np.linalg.norm(vectors_NW, axis=1, keepdims=True)
    directions_WD = principal_directions([vectors_NW[:200], vectors_NW[200:]], 8)
    assert directions_WD.T @ directions_WD == pytest.approx(np.eye(8), abs=1e-5)
    errors = []
    for narrowing in (Narrowing(24, directions_WD), Narrowing(8)):
        found_ND = narrowing(np.vstack([vectors_NW, np.zeros(24)]))
        assert found_ND.shape == (501, narrowing.dim) == (501, 8)
        assert np.linalg.norm(found_ND, axis=1) == pytest.approx([*np.ones(500), 0], abs=1e-5)
        errors.append(np.abs(found_ND[:500] @ found_ND[:500].T - vectors_NW @ vectors_NW.T).mean())
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": ("encoder16",)}, "expected NAME=PATH"),
        ({"baseline": ("=encoder16",)}, "expected NAME=PATH"),
        ({"baseline": ("main=encoder16",)}, "'main' is what is evaluated"),
        ({"baseline": ("a/b=encoder16",)}, "a name has no / or"),
        ({"baseline": ("a=encoder16", "a=set")}, "the name 'a' is given twice"),
        ({"baseline": ("a=nowhere",)}, r"--baseline a=.*nowhere: .*no such folder"),
        ({"encoder": None, "items": None, "embeddings": "set", "baseline": ("a=nowhere",)}, "no such emb"),
        (
            {"encoder": None, "embeddings": "damaged"},
            "damaged: the vector of 'i02' holds numbers that",
        ),
        ({"baseline": ("a=damaged",)}, "--baseline a=.*damaged: the vector of 'i02' holds numbers"),
        ({"baseline": ("a=strangers",)}, "it lacks 24 of 24 items and has 3 that the catalogue lacks"),
        ({"encoder": None, "embeddings": "strangers"}, "--embeddings .*strangers: .* another catalogue"),
        ({"baseline": ("a=set",), "tasks": ("text_to_item",)}, "a=.*set: can do none of the tasks"),
        ({"baseline": ("a=encoder16",), "dim": 20}, r"--dim 20: .* a=.*encoder16 have 16 dimensions"),
        ({"dim": 33}, r"--dim 33: the vectors of --encoder .* have 32 dimensions"),
        ({"dim": 8, "match_dims": True}, "--dim 8 and --match-dims"),
        ({"bootstrap": 0}, "--bootstrap 0"),
        ({"domain_level": 3}, "--domain-level 3: .* have 2 levels"),
        ({"encoder": "broken"}, "vectors hold numbers that are not finite"),
        ({"encoder": None, "items": None, "embeddings": "set", "baseline": ("a=encoder16",)}, "with --items"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    options: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    with EmbeddingSetWriter(tmp_path / "strangers", 2, {}) as writer:
        writer.write(["x", "y", "z"], np.eye(2)[[0, 1, 0]])
    damaged_set(folder, tmp_path / "damaged")
    encoder = busy_encoder()
    for parameter in encoder.parameters():
        parameter.data.fill_(np.nan)
    encoder.save_pretrained(tmp_path / "broken")
    for name in ("encoder16", "encoder32", "set"):
        (tmp_path / name).symlink_to(folder / name)
    given = options | {
        name: str(tmp_path / options[name]) for name in ("encoder", "embeddings") if options.get(name)
    }
    if "baseline" in options:
        given["baseline"] = tuple(one.replace("=", f"={tmp_path}/") for one in options["baseline"])
    with pytest.raises(UserError, match=message):
        evaluated(folder, tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def damaged_set(folder: Path, out: Path) -> None:
    """The set of the shop, with an infinite number in the third vector, as no command writes it."""
    shutil.copytree(folder / "set", out)
    table = pa.ipc.open_file((out / "vectors.arrow").read_bytes()).read_all()
    vectors = table["vector"].combine_chunks().flatten().to_numpy().copy()
    width = len(vectors) // len(table)
    vectors[2 * width + 1] = np.inf
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors), width)
    changed = pa.table([table["item_id"], column], schema=table.schema)
    with pa.ipc.new_file(str(out / "vectors.arrow"), changed.schema) as writer:
        writer.write_table(changed)


def test_an_output_among_a_baseline_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="lies in the input --baseline other="):
        evaluated(folder, folder / "encoder16" / "x", baseline=(f"other={folder / 'encoder16'}",))
