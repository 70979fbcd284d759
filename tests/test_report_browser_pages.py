"""Pages that commands write for real, in a real browser: an evaluation, a scaling study, an exchange rate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is in requirements/dev.txt")

from browser_helpers import DESKTOP, PHONE, Visit, started_browser, visited
from compare_case import page_of
from encoder_helpers import Shop
from exchange_studies import Study as Drawn
from exchange_studies import noise
from playwright.sync_api import Browser

from encoders.evaluate import EvaluateConfig, evaluate
from encoders.loading import COMPACT
from moonrec.domains import Domains
from moonrec.exchange.judge import Judge
from moonrec.exchange.measures import Measures
from moonrec.exchange.plan import Version
from moonrec.exchange.write import Study, write_study
from moonrec.scaling.axis import HISTORY
from moonrec.scaling.cells import Measured
from moonrec.scaling.run import Request, run_scaling

pytest_plugins = ["encoder_fixtures"]

_TABLES_THAT_SCROLL = """Array.from(document.querySelectorAll('.scroll'))
    .filter(one => !one.closest('details') && one.scrollWidth > one.clientWidth + 1).length"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started_browser() as started:
        yield started


@pytest.fixture(scope="module")
def evaluation(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "run"
    evaluate(
        EvaluateConfig(
            searches=shop.test_searches,
            items=shop.items,
            encoder=COMPACT,
            out=str(out),
            cache=shop.cache,
            device="cpu",
            baseline=(f"same={COMPACT}",),
        )
    )
    return out / "report.html"


@pytest.fixture(scope="module")
def scaling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scaling") / "run"

    def computed(point: int, seed: int, _: Path) -> Measured:
        auc = 0.6 + 0.01 * np.log(point) + 0.001 * np.random.default_rng(seed).standard_normal()
        return Measured(float(point), {"test.auc": float(auc)}, 1.0, {"epochs": 2.0})

    request = Request(
        out=out, axis=HISTORY, points=(1, 2, 4, 8, 16), seeds=2, metrics=("test.auc",), options={},
        inputs={"test": "t"}, config={"axis": "history"}, notes=("simulated",), work=float, unit_seconds=1.0,
    )  # fmt: skip
    run_scaling(request, computed)
    return out / "report.html"


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exchange")
    drawn = Drawn(
        scatter=0.0003, seed_noise=0.0005, queries=noise(0.02, own=0.004), users=noise(0.004, 0.0003)
    )
    metric, outcome = drawn.draw(np.random.default_rng(0))
    names = [f"version {number}" for number in range(len(metric.value_V))]
    write_study(
        out,
        Study(
            versions=[Version(name, f"/runs/{name}", name, "encoder") for name in names],
            fingerprints=names,
            dim=8,
            reference=names[0],
            pairs=[(names[0], names[-1])],
            measures=Measures([metric], [outcome], []),
            judge=Judge({"content": ["cube"], "epochs": 1}, {"test": "aa"}, 3),
            ids_only={"auc": {"mean": 0.5, "sd": 0.002}},
            domains=Domains(pa.array(["a"]), np.array([0], np.int32), ["shoes"], 1),
            notes=["simulated"],
            config={"seeds": 3},
            title="moonrec exchange-rate",
        ),
    )
    return out / "report.html"


def tops(visit: Visit, css: str) -> list[float]:
    return [box["y"] for one in visit.page.locator(css).all() if (box := one.bounding_box())]


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("made", ["evaluation", "scaling", "exchange"])
def test_a_page_is_complete_and_quiet_and_fits_its_window(
    made: str, width: int, browser: Browser, request: pytest.FixtureRequest
) -> None:
    with visited(browser, request.getfixturevalue(made), width) as visit:
        assert visit.page.locator(".plot img").count() > 0
        assert all(visit.image_widths())
        assert visit.overflow() <= 0
        for summary in visit.page.locator("main > section > .parts > details > summary").all():
            summary.click()
        assert visit.overflow() <= 0
        assert visit.complaints == []


def test_an_evaluation_shows_plots_and_pictures_before_its_tables(browser: Browser, evaluation: Path) -> None:
    with visited(browser, evaluation, PHONE) as visit:
        (headline,) = tops(visit, ".headline")
        assert headline < tops(visit, ".plot")[0] < tops(visit, ".strip")[0] < tops(visit, ".table")[0]
        assert visit.page.get_by_text("image_to_item").count() == 0
        assert "by chance" in visit.page.locator(".headline").inner_text()
    with visited(browser, evaluation, DESKTOP) as visit:
        assert visit.page.evaluate(_TABLES_THAT_SCROLL) == 0


def test_a_page_about_a_study_begins_with_what_the_study_says(
    browser: Browser, exchange: Path, tmp_path: Path
) -> None:
    (exchange.parent / "config.yaml").write_text("seeds: 3\n")
    (exchange.parent / "provenance.json").write_text('{"command": "exchange-rate", "inputs": {"test": "aa"}}')
    page_of(tmp_path, str(exchange.parent))
    with (
        visited(browser, exchange, DESKTOP) as own,
        visited(browser, tmp_path / "page.html", DESKTOP) as told,
    ):
        figures = [visit.page.locator(".headline dt").all_inner_texts() for visit in (own, told)]
        assert figures[0] == figures[1]
        assert told.page.locator(".warning").all_inner_texts() == ["simulated"]
        assert told.complaints == []
