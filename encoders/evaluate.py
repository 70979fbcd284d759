"""`moonrec evaluate`: how good vectors are, without training anything on them.

Retrieval of what users took, from their photo, their words or both; retrieval across modalities; categories
and attributes by the nearest label's words; how far pictures and words of an item agree. Tasks and protocol
are those of MOON's benchmark MBE (https://arxiv.org/abs/2508.11999) and of MOON2.0
(https://arxiv.org/abs/2511.12449). Every ranking is exact, over the whole catalogue, block by block. With a
ready embedding set alone only image search can be measured: the query of a row is the vector of its
`query_item_id`, which is left out of its own ranking.

Baselines are measured beside it by the same code on the same tables, and compared unit by unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from encoders.evaluation.comparisons import compare
from encoders.evaluation.entrants import (
    Entrant,
    Setting,
    check_same_catalogue,
    named_baselines,
    open_baseline,
)
from encoders.evaluation.examples import write_examples
from encoders.evaluation.measure import Inputs, measured
from encoders.evaluation.ranked import Ranked
from encoders.evaluation.report import evaluation_report
from encoders.evaluation.result_tables import ResultTables
from encoders.evaluation.results import MAIN, Results
from encoders.evaluation.summary import Resampling, summary
from encoders.evaluation.tasks import IMAGE_TO_ITEM, Available, Plan
from encoders.loading import cache_folder
from encoders.pairs import Unknown
from encoders.precision import pick_device
from encoders.products import BrokenImages
from encoders.queries import unknown_items
from moonrec.domains import item_domains
from moonrec.errors import UserError
from moonrec.output_place import folder_or_none, refuse_inside_inputs
from moonrec.report import add_provenance
from moonrec.runs import Run, open_run
from moonrec.tables import ITEMS, SEARCHES, Table, open_table

_COUNTS = ("queries", "catalogue", "positives", "positives_in_catalogue")


@dataclass(frozen=True)
class EvaluateConfig:
    """Options of `moonrec evaluate`, with the names of the flags.

    Attributes:
        searches: queries and what was taken.
        out: the run folder to write.
        items: the catalogue; what `embeddings` cannot stand for is encoded from it.
        encoder: a run folder, a checkpoint, or `compact` (untrained).
        embeddings: an embedding set as the catalogue; its width is that of all vectors.
        baseline: `NAME=PATH`, each an encoder or an embedding set to compare with.
        tasks: names out of `encoders.evaluation.tasks.TASKS`; None: all that the data allow.
        dim: measure everybody at this width; None: each at its own.
        match_dims: measure everybody at the width of the narrowest.
        domain_level: level of the categories whose names are the domains; None: the first that differs.
        bootstrap: replicates behind the intervals.
        seed: of everything random.
        device: where to compute.
        cache: folder of the feature cache (None: the default one, "": none).
    """

    searches: str
    out: str
    items: str | None = None
    encoder: str | None = None
    embeddings: str | None = None
    baseline: tuple[str, ...] = ()
    tasks: tuple[str, ...] | None = None
    dim: int | None = None
    match_dims: bool = False
    domain_level: int | None = None
    bootstrap: int = 1000
    seed: int = 0
    device: str = "auto"
    cache: str | None = None


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure the tasks and write a run folder; returns what `metrics.json` holds.

    `retrieval.<task>`, `classification.<level>` and `attributes.<name>` hold metrics, their intervals `ci`
    and counts; `agreement` how far pictures and words agree; `domains.<name>` the same for a part of the
    catalogue, `baselines.<NAME>` for another entrant; `comparisons` the paired differences. `left_out` says
    why a task or a part of one is missing. The counts of image search stand at the top besides.

    `queries.parquet`, `labels.parquet` and `agreement.parquet` hold all of it unit by unit.

    Raises:
        UserError: neither encoder nor embeddings, tables that do not fit, searches most of which name items
            that the catalogue lacks or of which none can be asked, a task that is unknown, one that was
            asked for and cannot be done, a baseline that cannot be opened or compared, a width that an
            entrant lacks, or an output that would touch an input.
    """
    evaluation = _Evaluation(config)
    with open_run(
        Path(config.out), "evaluate", asdict(config), evaluation.fingerprints(), seed=config.seed
    ) as run:
        return evaluation.write(run)


class _Evaluation:
    """The tables and entrants of one evaluation."""

    def __init__(self, config: EvaluateConfig) -> None:
        _check(config)
        baselines = named_baselines(config.baseline)
        _refuse_touching_inputs(config, baselines)
        self.config = config
        searches = open_table(config.searches, SEARCHES)
        items = open_table(config.items, ITEMS) if config.items else None
        self.plan = Plan.of(config.tasks, Available(searches, items, has_encoder=config.encoder is not None))
        setting = Setting(items, pick_device(config.device), cache_folder(config.cache))
        main = Entrant.of(MAIN, _option(config), config.encoder, config.embeddings, setting)
        # Who the items are is looked up first: a mistake there costs no minutes of encoding.
        self.unknown = _unknown(searches, items, main)
        self.inputs = Inputs(searches, items, item_domains(items, config.domain_level) if items else None)
        if items is not None:
            check_same_catalogue(main, self._item_ids())
        others = [open_baseline(name, path, setting) for name, path in baselines.items()]
        ids = main.embeddings.ids if main.embeddings is not None else self._item_ids()
        encoded = self._item_ids() if items is not None and main.embeddings is not None else None
        self.catalogues = {one.name: check_same_catalogue(one, ids, encoded) for one in others}
        entrants = [main, *others]
        dim = min(one.dim for one in entrants) if config.match_dims else config.dim
        self.entrants = [one.at(dim, setting) for one in entrants] if dim is not None else entrants

    def fingerprints(self) -> dict[str, str]:
        """Of all inputs."""
        inputs, (main, *others) = self.inputs, self.entrants
        found = {"searches": inputs.searches.fingerprint()}
        if inputs.items is not None:
            found["items"] = inputs.items.fingerprint()
        if main.embeddings is not None:
            found["embeddings"] = main.embeddings.fingerprint
        if main.worker is not None:
            found["encoder"] = main.fingerprint()
        return found | {f"baseline {one.name}": one.fingerprint() for one in others}

    def write(self, run: Run) -> dict[str, Any]:
        """Measure everybody and write the run; returns the metrics."""
        found, ranked = self._measured(run)
        main, *others = found
        metrics = self._metrics(main)
        metrics["baselines"], metrics["comparisons"] = {}, []
        for one in others:
            catalogue = self.catalogues[one.name]
            compared = compare(main, one, catalogue, self._domain_names(), self._resampling())
            metrics["comparisons"] += compared.differences
            metrics["baselines"][one.name] = self._metrics(one) | {
                "uncompared": compared.uncompared, "paired": compared.paired, "catalogue": catalogue
            }  # fmt: skip
        photos = metrics["retrieval"].get(IMAGE_TO_ITEM.name, {})
        metrics |= {name: photos[name] for name in _COUNTS if name in photos}
        metrics["unknown_items"] = asdict(self.unknown) | {"examples": list(self.unknown.examples)}
        run.save_metrics(metrics)
        searches, items = self.inputs.searches, self.inputs.items
        examples = write_examples(run.path, ranked, searches, items) if ranked else None
        report = evaluation_report(metrics, asdict(self.config), examples)
        add_provenance(report, asdict(self.config))
        report.save(run.path / "report.html")
        return metrics

    def _measured(self, run: Run) -> tuple[list[Results], Sequence[Ranked]]:
        """The results of everybody, and the rankings of what is evaluated; their tables are written."""
        found: list[Results] = []
        kept: Sequence[Ranked] = []
        with ResultTables(run.path, self.inputs.domains) as tables:
            for entrant in self.entrants:
                results, ranked = measured(self._plan_of(entrant), self.inputs, entrant)
                tables.write(results)
                found.append(results)
                kept = ranked if entrant.name == MAIN else kept
        return found, kept

    def _plan_of(self, entrant: Entrant) -> Plan:
        if entrant.name == MAIN:
            return self.plan
        inputs = self.inputs
        available = Available(inputs.searches, inputs.items, has_encoder=entrant.worker is not None)
        try:
            return Plan.of(self.config.tasks, available, strict=False)
        except UserError as error:
            raise UserError(f"{entrant.option}: can do none of the tasks: {error}") from error

    def _metrics(self, results: Results) -> dict[str, Any]:
        broken = results.broken_images or BrokenImages().to_dict()
        return summary(results, self._domain_names(), self._resampling()) | {
            "dim": results.dim, "left_out": dict(results.left_out), "broken_images": broken
        }  # fmt: skip

    def _domain_names(self) -> Sequence[str]:
        return self.inputs.domains.names if self.inputs.domains is not None else ()

    def _resampling(self) -> Resampling:
        return Resampling(self.config.bootstrap, self.config.seed)

    def _item_ids(self) -> pa.Array:
        assert self.inputs.domains is not None
        return self.inputs.domains.ids


def _check(config: EvaluateConfig) -> None:
    if config.encoder is None and config.embeddings is None:
        raise UserError("name what is evaluated: --encoder RUN, --embeddings EMB, or both")
    if config.encoder is not None and config.embeddings is None and config.items is None:
        raise UserError("--encoder needs a catalogue to search: --items TABLE or --embeddings EMB")
    if config.dim is not None and config.match_dims:
        raise UserError(f"--dim {config.dim} and --match-dims: each sets the width of all vectors; give one")
    if config.dim is not None and config.dim < 1:
        raise UserError(f"--dim {config.dim}: expected a width of at least 1")
    if config.domain_level is not None and config.items is None:
        raise UserError(f"--domain-level {config.domain_level}: domains are of a catalogue; give --items")
    if config.bootstrap < 1:
        raise UserError(f"--bootstrap {config.bootstrap}: expected at least 1 replicate; 1000 is usual")


def _option(config: EvaluateConfig) -> str:
    if config.embeddings is not None:
        return f"--embeddings {config.embeddings}"
    return f"--encoder {config.encoder}"


def _refuse_touching_inputs(config: EvaluateConfig, baselines: dict[str, str]) -> None:
    refuse_inside_inputs(
        config.out,
        [
            ("--encoder", folder_or_none(config.encoder)),
            ("--embeddings", config.embeddings),
            ("--items", config.items),
            ("--searches", config.searches),
            *((f"--baseline {name}=", folder_or_none(path)) for name, path in baselines.items()),
        ],
    )


def _unknown(searches: Table, items: Table | None, main: Entrant) -> Unknown:
    """An item of the catalogue may have no vector: it is then missed, and the catalogue is the right one."""
    known = [items.read(["item_id"]).column("item_id")] if items is not None else []
    vectors = [main.embeddings.ids] if main.embeddings is not None else []
    return unknown_items(searches, *known, *vectors)
