"""Search: what comes first is what evaluation would rank first, for a photo, for words and for both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from encoder_helpers import CPU, picture, write_table
from search_case import COMPUTE, NAMES, SearchCase, make_case

import moonrec
from encoders.export import ExportConfig, export
from encoders.search.many import QUERIES, search_many
from encoders.search.search import SearchConfig, search
from encoders.search.searcher import Searcher
from moonrec.cli import main
from moonrec.embedding_set import EmbeddingSet, EmbeddingSetWriter
from moonrec.tables import open_table


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> SearchCase:
    return make_case(tmp_path_factory.mktemp("plain"), regions=False)


@pytest.fixture(scope="module")
def looking(tmp_path_factory: pytest.TempPathFactory) -> SearchCase:
    """The same with an encoder that looks at core regions."""
    return make_case(tmp_path_factory.mktemp("regions"), regions=True)


def ids_of(found: dict[str, Any]) -> list[str]:
    return [row["item_id"] for row in found["results"]]


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["search", "--device", "cpu", "--no-cache", *map(str, arguments)])


@pytest.mark.parametrize("shown", [("image",), ("text",), ("image", "text")])
def test_the_order_is_that_of_a_full_ranking_of_the_query_as_evaluation_sees_it(
    shown: tuple[str, ...], looking: SearchCase
) -> None:
    photo = looking.photos[0]
    asked = {"image": photo, "text": " blue shirt "}
    row = {"query_image": Path(photo).read_bytes(), "query_text": asked["text"]}
    query = {name: value for name, value in row.items() if name.removeprefix("query_") in shown}
    found = search(looking.config(**{name: asked[name] for name in shown}, k=9))
    assert ids_of(found) == looking.ranking([query])[0][:9]
    scores = [one["score"] for one in found["results"]]
    assert scores == sorted(scores, reverse=True)
    assert [one["rank"] for one in found["results"]] == list(range(1, 10))


def test_a_prefix_of_the_vectors_is_searched_with_a_prefix_of_the_query(looking: SearchCase) -> None:
    narrow = looking.folder / "narrow"
    export(ExportConfig(looking.encoder, looking.items, str(narrow), dim=16, **COMPUTE))
    found = search(looking.config(embeddings=str(narrow), text="oak table", k=5))
    assert ids_of(found) == looking.ranking([{"query_text": "oak table"}], str(narrow))[0][:5]
    assert ids_of(found) != ids_of(search(looking.config(text="oak table", k=5)))


def test_a_single_search_leaves_no_files_and_gives_the_same_bits_again(
    looking: SearchCase, tmp_path: Path
) -> None:
    before = sorted(looking.folder.iterdir())
    config = looking.config(image=looking.photos[1], cache=str(tmp_path / "cache"))
    first, second = search(config), search(config)
    assert first["results"] == second["results"]
    assert sorted(looking.folder.iterdir()) == before
    assert not (tmp_path / "cache").exists()


def test_a_catalogue_adds_titles_and_says_what_it_lacks(case: SearchCase, tmp_path: Path) -> None:
    table = pq.read_table(case.items)
    pq.write_table(table.slice(0, 20), tmp_path / "items.parquet")
    found = search(case.config(text="wool hat", items=str(tmp_path / "items.parquet"), k=50))
    assert len(found["results"]) == found["catalogue"] == 21
    titles = {row["item_id"]: row["title"] for row in found["results"]}
    expected = dict(zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True))
    assert titles == expected | {"020": None}
    assert [row["category"] for row in found["results"]].count("Home > Things") == 20
    assert any("lacks 1 of the 21" in note for note in found["notes"])
    assert any("holds 21 items, and all are shown" in note for note in found["notes"])


def test_every_row_of_a_table_gets_what_a_search_of_its_own_gets(case: SearchCase, tmp_path: Path) -> None:
    photos = [Path(path).read_bytes() for path in case.photos]
    rows: list[dict[str, Any]] = [
        {"query_text": "red dress", "query_image": photos[0]},
        {"query_text": "  "},
        {"query_image": photos[1]},
        {"query_image": b"nothing"},
        {"query_text": "small mug", "query_image": b"nothing"},
        {},
    ]
    queries = write_table(tmp_path / "queries.parquet", rows)
    found = search(case.config(queries=str(queries), out=str(tmp_path / "found.parquet"), k=4))
    assert (found["queries"], found["empty"], found["broken_images"]["count"]) == (6, 3, 2)
    table = pq.read_table(tmp_path / "found.parquet").to_pandas()
    assert table.query_row.tolist() == [row for row in (0, 2, 4) for _ in range(4)]
    assert table["rank"].tolist() == [1, 2, 3, 4] * 3
    alone = [
        search(case.config(image=case.photos[0], text="red dress", k=4)),
        search(case.config(image=case.photos[1], k=4)),
        search(case.config(text="small mug", k=4)),
    ]
    assert table.item_id.tolist() == [key for one in alone for key in ids_of(one)]
    scores = [row["score"] for one in alone for row in one["results"]]
    assert table.score.tolist() == pytest.approx(scores, abs=1e-5)


def test_chunks_of_a_long_table_do_not_change_its_results(case: SearchCase, tmp_path: Path) -> None:
    texts = [f"{NAMES[number % 7]} {number % 90}" if number % 4 else None for number in range(600)]
    pq.write_table(pa.table({"query_text": pa.array(texts, pa.string())}), tmp_path / "queries.parquet")
    searcher = Searcher.open(case.encoder, case.embeddings, None, CPU, None)
    tables = []
    for chunk in (1, 100_000):
        queries = open_table(tmp_path / "queries.parquet", QUERIES)
        counts = search_many(searcher, queries, 3, tmp_path / "found.parquet", chunk=chunk)
        assert (counts["queries"], counts["empty"]) == (600, 150)
        tables.append(pq.read_table(tmp_path / "found.parquet"))
    assert tables[0].drop_columns("score") == tables[1].drop_columns("score")
    assert set(tables[0]["query_row"].to_pylist()) == {row for row in range(600) if row % 4}


def test_the_item_whose_picture_is_the_query_is_left_out_where_it_is_shown(
    case: SearchCase, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"query_image": picture(3), "query_item_id": "003"},
        {"query_image": picture(3)},
        {"query_text": "small mug 3", "query_item_id": "003"},
        {"query_image": picture(3), "query_item_id": "unknown"},
    ]
    queries = write_table(tmp_path / "queries.parquet", rows)
    search(case.config(queries=str(queries), out=str(tmp_path / "found.parquet"), k=21))
    table = pq.read_table(tmp_path / "found.parquet").to_pandas()
    counts = table.groupby("query_row").size().tolist()
    assert counts == [20, 21, 21, 21]
    by_row = [part.item_id.tolist() for _, part in table.groupby("query_row")]
    assert by_row[0] == [key for key in by_row[1] if key != "003"]


def test_an_untrained_encoder_is_fitted_to_the_catalogue_of_the_set(case: SearchCase, tmp_path: Path) -> None:
    embeddings = str(tmp_path / "set")
    export(ExportConfig("compact", case.items, embeddings, **COMPUTE))
    config = SearchConfig("compact", embeddings, items=case.items, text="green lamp 9", k=3, **COMPUTE)
    found = moonrec.search(config)
    assert "green lamp 9" in [row["title"] for row in found["results"]]
    with pytest.raises(moonrec.UserError, match="name it with --items"):
        search(SearchConfig("compact", embeddings, text="green lamp", **COMPUTE))


def test_the_command_prints_a_table_or_json(case: SearchCase) -> None:
    fixed = ("--encoder", case.encoder, "--embeddings", case.embeddings, "--items", case.items, "--k", 2)
    plain = command(*fixed, "--text", "wool hat")
    assert plain.exit_code == 0, plain.output
    lines = plain.stdout.splitlines()
    assert lines[0].split() == ["rank", "item_id", "score", "title", "category"]
    assert len(lines) == 3
    results = json.loads(command(*fixed, "--text", "wool hat", "--json").stdout)["results"]
    assert [line.split()[1] for line in lines[1:]] == [row["item_id"] for row in results]


def test_titles_cannot_steer_the_terminal(case: SearchCase, tmp_path: Path) -> None:
    rows = [{"item_id": f"{place:03}", "title": "evil\x1b[2J\nline" * 20} for place in range(21)]
    items = write_table(tmp_path / "items.parquet", rows)
    found = command(
        "--encoder", case.encoder, "--embeddings", case.embeddings, "--items", items, "--text", "hat"
    )
    assert found.exit_code == 0, found.output
    assert "\x1b" not in found.stdout
    assert len(found.stdout.splitlines()) == 21
    assert all(len(line) < 120 for line in found.stdout.splitlines())


def test_mistakes_are_one_line_and_write_nothing(case: SearchCase, tmp_path: Path) -> None:
    broken, large, page = tmp_path / "broken.jpg", tmp_path / "large.jpg", tmp_path / "page.html"
    broken.write_bytes(picture(1)[:200])
    with large.open("wb") as file:
        file.truncate(65 * 2**20)
    queries = write_table(tmp_path / "queries.parquet", [{"query_text": "hat"}])
    (tmp_path / "dir.html").mkdir()
    text = ("--text", "hat")
    mistakes: tuple[tuple[tuple[object, ...], str], ...] = (
        ((), "--image, words with --text"),
        (("--text", " \t"), "--text: is empty"),
        (("--text", "\x00\u200b"), "holds nothing that the encoder reads"),
        (("--text", "caf\udce9"), "not UTF-8"),
        (("--image", tmp_path / "none.jpg"), "no file 'none.jpg'"),
        (("--image", tmp_path), "Is a directory"),
        (("--image", broken), f"--image {broken}: cannot be decoded"),
        (("--image", large), "larger than 64 MiB"),
        (("--image", queries), "not a picture in a known format"),
        ((*text, "--k", 0), "--k"),
        ((*text, "--html", tmp_path / "page.pdf"), "ends in .html"),
        ((*text, "--html", tmp_path / "dir.html"), "is a folder"),
        ((*text, "--html", page, "--k", 1001), "at most 1,000"),
        ((*text, "-o", tmp_path / "x.parquet"), "is for the results of --queries"),
        ((*text, "--queries", queries, "-o", tmp_path / "x.parquet"), "--text: is for one query"),
        (("--queries", queries), "with -o"),
        (("--queries", queries, "-o", queries), "lies in the input --queries"),
        (("--queries", queries, "-o", Path(case.embeddings) / "x"), "lies in the input --embeddings"),
        (("--queries", case.items, "-o", tmp_path / "x.parquet"), "query_text or query_image"),
        ((*text, "--encoder", tmp_path / "no"), "no such folder; an encoder is a run folder"),
        ((*text, "--encoder", case.embeddings), "holds no encoder"),
        ((*text, "--embeddings", case.encoder), "is no embedding set"),
        ((*text, "--items", tmp_path / "no.parquet"), "no.parquet: no such file"),
    )
    for arguments, words in mistakes:
        result = command("--encoder", case.encoder, "--embeddings", case.embeddings, *arguments)
        assert result.exit_code == 2, (arguments, result.output, result.exception)
        message = result.stderr.strip()
        assert words in message, message
        assert len(message.splitlines()) == 1 or "Usage" in message
        assert not page.exists()
        assert not (tmp_path / "x.parquet").exists()


def test_a_set_that_this_encoder_did_not_make_is_refused(
    case: SearchCase, looking: SearchCase, tmp_path: Path
) -> None:
    own = EmbeddingSet.open(case.embeddings)
    with EmbeddingSetWriter(tmp_path / "imported", own.dimension, {"modality": "imported"}) as writer:
        writer.write(own.ids.combine_chunks(), own.matrix())
    for embeddings, words in (
        (looking.embeddings, "made by another encoder"),
        (str(tmp_path / "imported"), "not exported by an encoder"),
    ):
        with pytest.raises(moonrec.UserError, match=words):
            search(case.config(embeddings=embeddings, text="hat"))


def test_a_vector_that_is_not_finite_is_told(case: SearchCase, tmp_path: Path) -> None:
    own = Path(case.embeddings)
    data = bytearray((own / "vectors.arrow").read_bytes())
    vectors = EmbeddingSet.open(own).matrix().tobytes()
    start = bytes(data).index(vectors)
    data[start : start + 2] = b"\x00\x7c"  # infinity
    damaged = tmp_path / "set"
    damaged.mkdir()
    (damaged / "vectors.arrow").write_bytes(data)
    (damaged / "metadata.json").write_bytes((own / "metadata.json").read_bytes())
    with pytest.raises(moonrec.UserError, match=r"is not finite; export the catalogue again"):
        search(case.config(embeddings=str(damaged), text="hat"))
