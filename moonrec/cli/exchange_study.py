"""`moonrec exchange-rate` wired to encoders and click models: how versions are exported, measured and judged.

It stands beside the command line because it is one of the few places that run both `encoders` and `ctr`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moonrec.cli.exchange_judge import click_model, leak_notes
from moonrec.cli.exchange_versions import Catalogue, Opened, VersionSteps, check_widths, opened
from moonrec.cli.study_inputs import one_process, plain_options
from moonrec.domains import item_domains
from moonrec.errors import UserError
from moonrec.exchange.plan import Version, check_version, planned_steps, planned_versions
from moonrec.exchange.repeats import distinct
from moonrec.exchange.run import Request, Steps, run_exchange, tell_plan
from moonrec.output_place import folder_or_none, refuse_inside_inputs
from moonrec.tables import ITEMS, SEARCHES, Table, open_table

DEFAULT_TITLE = "What a gain is worth"


@dataclass(frozen=True)
class ExchangeConfig:
    """Options of `moonrec exchange-rate`, with the names of the flags.

    Attributes:
        items: the catalogue.
        impressions: what the judge learns from.
        test: what AUC and GAUC are measured on.
        events: what users did.
        out: the folder to write or to go on with.
        searches: what intermediate metrics are measured on; None: only those that need none.
        version: texts `NAME=PATH`.
        trajectory: texts `NAME=RUN`, of runs whose epochs were kept.
        compare: texts `A:B`, steps to tell of one by one.
        reference: the version that AUC is shown relative to; None: the first.
        seeds: of the judge, from 0 on.
        judge: texts `NAME=VALUE`, options of train-ctr.
        dim: the width of all vectors; None: they have the same.
        domain_level: of categories; None: the first that tells items apart.
        modality: what is shown of an item to its encoder.
        tasks: of `moonrec evaluate`; None: all that the data allow.
        device: where encoders compute.
        cache: folder of the feature cache (None: the default one, "": none).
        plan: only say what would be done.
    """

    items: str
    impressions: str
    test: str
    events: str
    out: str
    searches: str | None = None
    version: tuple[str, ...] = ()
    trajectory: tuple[str, ...] = ()
    compare: tuple[str, ...] = ()
    reference: str | None = None
    seeds: int = 3
    judge: tuple[str, ...] = ()
    dim: int | None = None
    domain_level: int | None = None
    modality: str = "multimodal"
    tasks: tuple[str, ...] | None = None
    device: str = "auto"
    cache: str | None = None
    plan: bool = False


@dataclass(frozen=True)
class Telling:
    """What a report says besides: its title, and notes that its reader must know first."""

    title: str = DEFAULT_TITLE
    notes: Sequence[str] = field(default_factory=tuple)


def exchange_rate(config: ExchangeConfig, telling: Telling | None = None) -> dict[str, Any]:
    """Measure and judge every version and write rates, steps, plots and a report.

    Finished cells are found again. With `plan` nothing is written.

    Raises:
        UserError: versions that cannot be compared, tables that do not fit, options that cannot be, cells in
            the output that were made otherwise, or a cell that fails.
    """
    one_process("exchange-rate")
    telling = telling or Telling()
    given = planned_versions(config.version, config.trajectory)
    pairs = planned_steps(config.compare, given)
    reference = config.reference or given[0].name
    check_version("--reference", reference, given)
    items = open_table(config.items, ITEMS)
    searches = open_table(config.searches, SEARCHES) if config.searches else None
    named = {name: getattr(config, name) for name in ("impressions", "test", "events", "items")}
    model = click_model(named, config.out, config.seeds, config.judge)
    _check_output(config, given, {**model.tables, **({"searches": searches} if searches else {})})
    catalogue = Catalogue(items, config.items, config.modality, config.device, config.cache)
    found = {version.name: opened(version, catalogue) for version in given}
    kept = distinct(given, [one.fingerprint for one in found.values()])
    versions = kept.versions
    dim = check_widths(list(found.values()), config.dim)
    projected = frozenset(
        v.name for v in versions if v.kind != "embeddings" and not found[v.name].is_prefix(dim)
    )
    domains = item_domains(items, config.domain_level)
    judge = model.judge()
    inputs = dict(judge.inputs) | ({"searches": searches.fingerprint()} if searches else {})
    evaluated, told = _evaluated(versions, searches, items, config.tasks)
    request = Request(
        out=Path(config.out),
        versions=versions,
        fingerprints=kept.fingerprints,
        dim=dim,
        evaluated=evaluated,
        pairs=kept.pairs(pairs),
        reference=kept.kept_as[reference],
        judge=judge,
        vectors={"modality": config.modality, "device": catalogue.device_kind},
        evaluation={"tasks": list(config.tasks) if config.tasks else None, "domain_level": domains.level},
        inputs=inputs,
        rows={name: table.count_rows() for name, table in model.tables.items()}
        | ({"searches": searches.count_rows()} if searches else {}),
        domains=domains,
        config=plain_options(config),
        projected=projected,
        notes=[
            *telling.notes,
            *kept.notes,
            *told,
            *_coverage_notes(list(found.values())),
            *leak_notes(model.tables),
        ],
        title=telling.title,
    )
    if config.plan:
        return tell_plan(request)
    steps = VersionSteps(catalogue, dim, config.searches, config.tasks, config.domain_level, projected)
    return run_exchange(request, Steps(steps.vectors, steps.evaluate, model.run))


def _check_output(config: ExchangeConfig, versions: Sequence[Version], tables: Mapping[str, Table]) -> None:
    given: list[tuple[str, Path | str | None]] = [(f"--{name}", table.path) for name, table in tables.items()]
    given += [("--version", folder_or_none(version.path)) for version in versions]
    given += [("--trajectory", text.partition("=")[2]) for text in config.trajectory]
    refuse_inside_inputs(config.out, given)


def _evaluated(
    versions: Sequence[Version], searches: Table | None, items: Table, tasks: Sequence[str] | None
) -> tuple[frozenset[str], list[str]]:
    """The versions that are evaluated, and why others are not.

    Raises:
        UserError: tasks that are none, or that these versions and tables do not allow.
    """
    if searches is None:
        if tasks:
            raise UserError(f"--tasks {','.join(tasks)}: are measured on test searches; name --searches")
        return frozenset(), ["No --searches: of the intermediate metrics only the top-3 cosines are known."]
    sets = [version.name for version in versions if version.kind == "embeddings"]
    others = [version.name for version in versions if version.kind != "embeddings"]
    if others or tasks or "query_item_id" in searches.column_names:
        from encoders.evaluation.tasks import Available, Plan

        # Before the first cell: a mistake there would cost the hours of those before it.
        Plan.of(tasks, Available(searches, items, has_encoder=bool(others)))
    if sets and others:
        return frozenset(others), [
            f"Embedding sets ({', '.join(sets)}) are asked with the vectors of catalogue items, encoders "
            "with pictures and words: these are different questions, so that the sets have no intermediate "
            "metrics here but the top-3 cosines."
        ]
    if sets and "query_item_id" not in searches.column_names:
        return frozenset(), [
            f"{searches.path} has no column query_item_id, so embedding sets have no intermediate metrics "
            "here but the top-3 cosines."
        ]
    return frozenset(sets or others), []


def _coverage_notes(found: Sequence[Opened]) -> list[str]:
    return [
        f"{one.version.name} has vectors for {one.coverage:.1%} of the catalogue"
        + (f" and for {one.foreign:,} items that are not in it, which are left out" if one.foreign else "")
        + "."
        for one in found
        if one.coverage < 1 or one.foreign
    ]
