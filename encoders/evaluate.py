"""`moonrec evaluate`: how good vectors are, without training anything on them.

Retrieval of what users took, from their photo, their words or both; retrieval across modalities; categories
and attributes by the nearest label's words. Tasks and protocol are those of MOON's benchmark MBE
(https://arxiv.org/abs/2508.11999) and of MOON2.0 (https://arxiv.org/abs/2511.12449). Every ranking is exact,
over the whole catalogue, block by block. With a ready embedding set alone only image search can be measured:
the query of a row is the vector of its `query_item_id`, which is left out of its own ranking.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from encoders.encoder import Encoder
from encoders.evaluation.measure import Inputs, labelled, retrieval, retrieval_of_embeddings
from encoders.evaluation.report import write_report
from encoders.evaluation.tasks import IMAGE_TO_ITEM, Available, Plan
from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.loading import cache_folder
from encoders.pairs import Unknown
from encoders.precision import pick_device
from encoders.products import BrokenImages
from encoders.queries import unknown_items
from moonrec.embedding_set import EmbeddingSet
from moonrec.errors import UserError
from moonrec.output_place import folder_or_none, refuse_inside_inputs
from moonrec.runs import open_run
from moonrec.tables import ITEMS, SEARCHES, open_table

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
        tasks: names out of `encoders.evaluation.tasks.TASKS`; None: all that the data allow.
        device: where to compute.
        cache: folder of the feature cache (None: the default one, "": none).
    """

    searches: str
    out: str
    items: str | None = None
    encoder: str | None = None
    embeddings: str | None = None
    tasks: tuple[str, ...] | None = None
    device: str = "auto"
    cache: str | None = None


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure the tasks and write a run folder; returns what `metrics.json` holds.

    `retrieval.<task>`, `classification.<level>` and `attributes.<name>` hold metrics and counts, `left_out`
    says why a task or a part of one is missing. The counts of image search stand at the top besides.

    Raises:
        UserError: neither encoder nor embeddings, tables that do not fit, searches most of which name items
            that the catalogue lacks or of which none can be asked, a task that is unknown, one that was
            asked for and cannot be done, or an output that would touch an input.
    """
    inputs, plan = _opened(config)
    fingerprints = {"searches": inputs.searches.fingerprint()}
    if inputs.items is not None:
        fingerprints["items"] = inputs.items.fingerprint()
    if inputs.embeddings is not None:
        fingerprints["embeddings"] = inputs.embeddings.fingerprint
    unknown = _unknown(inputs)
    worker = None
    if config.encoder is not None:
        device, cache = pick_device(config.device), cache_folder(config.cache)
        worker = WorkingEncoder.start(config.encoder, inputs.items, device, cache)
        fingerprints["encoder"] = worker.encoder.fingerprint()
        if inputs.embeddings is not None:
            _check_same_encoder(inputs.embeddings, worker.encoder)
            worker = worker.at(inputs.embeddings.dimension)
    with open_run(Path(config.out), "evaluate", asdict(config), fingerprints, seed=0) as run:
        metrics = _measured(plan, inputs, worker)
        metrics |= {"unknown_items": asdict(unknown) | {"examples": list(unknown.examples)}}
        run.save_metrics(metrics)
        write_report(run, metrics, asdict(config))
    return metrics


def _opened(config: EvaluateConfig) -> tuple[Inputs, Plan]:
    """The tables, and what is to be measured on them."""
    if config.encoder is None and config.embeddings is None:
        raise UserError("name what is evaluated: --encoder RUN, --embeddings EMB, or both")
    if config.encoder is not None and config.embeddings is None and config.items is None:
        raise UserError("--encoder needs a catalogue to search: --items TABLE or --embeddings EMB")
    refuse_inside_inputs(
        config.out,
        [
            ("--encoder", folder_or_none(config.encoder)),
            ("--embeddings", config.embeddings),
            ("--items", config.items),
            ("--searches", config.searches),
        ],
    )
    searches = open_table(config.searches, SEARCHES)
    items = open_table(config.items, ITEMS) if config.items else None
    plan = Plan.of(config.tasks, Available(searches, items, has_encoder=config.encoder is not None))
    embeddings = EmbeddingSet.open(config.embeddings) if config.embeddings else None
    return Inputs(searches, items, embeddings), plan


def _unknown(inputs: Inputs) -> Unknown:
    """An item of the catalogue may have no vector: it is then missed, and the catalogue is the right one."""
    known = [inputs.items.read(["item_id"]).column("item_id")] if inputs.items is not None else []
    vectors = [inputs.embeddings.ids] if inputs.embeddings is not None else []
    return unknown_items(inputs.searches, *known, *vectors)


def _check_same_encoder(embeddings: EmbeddingSet, encoder: Encoder) -> None:
    if embeddings.metadata.get("encoder_fingerprint") != encoder.fingerprint():
        raise UserError(
            f"{embeddings.path}: was not made by this encoder (fingerprints differ), so its vectors cannot "
            "be compared with the encoder's queries; export it again, or name the encoder that made it"
        )


def _measured(plan: Plan, inputs: Inputs, worker: WorkingEncoder | None) -> dict[str, Any]:
    if worker is not None:
        metrics = {"retrieval": retrieval(plan, inputs, worker)} | labelled(plan, inputs, worker)
        broken = worker.preparer.broken
    else:
        assert inputs.embeddings is not None
        metrics = {"retrieval": retrieval_of_embeddings(inputs.searches, inputs.embeddings)}
        broken = BrokenImages()
    photos = metrics["retrieval"].get(IMAGE_TO_ITEM.name, {})
    metrics |= {name: photos[name] for name in _COUNTS if name in photos}
    return metrics | {"left_out": plan.left_out, "broken_images": broken.to_dict()}
