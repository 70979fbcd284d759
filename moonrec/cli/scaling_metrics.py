"""Whether the tables hold what a metric of encoders is measured on, asked before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from moonrec.errors import UserError
from moonrec.study.settings import near
from moonrec.tables import Table


def check_measurable(metrics: Sequence[str], items: Table, test: Table) -> None:
    """Raise a `UserError` for a metric of a task, level or attribute that the tables do not have.

    Args:
        metrics: by dotted name, such as `attributes.color.accuracy`.
        items: the catalogue.
        test: the searches that encoders are measured on.
    """
    from encoders.evaluation.label_sets import attribute_label_sets, category_label_sets
    from encoders.evaluation.tasks import Available, Plan

    sets = {"classification": category_label_sets, "attributes": attribute_label_sets}
    for metric in metrics:
        group, _, rest = metric.partition(".")
        name = rest.rpartition(".")[0]
        if group in sets:
            known, path = [one.name for one in sets[group](items)[0]], items.path
        else:
            plan = Plan.of(None, Available(test, items, has_encoder=True))
            known, path = [task.name for task in plan.retrieval], test.path
        if name not in known:
            told = near(name, known) if known else "and nothing else of this kind"
            raise UserError(f"--metric {metric}: cannot be measured with {path}, which has no {name}; {told}")
