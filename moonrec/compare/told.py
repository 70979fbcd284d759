"""What a run says of itself in `metrics.json`: key figures, verdicts, notes; anybody may have written them.

`key_figures` are objects with `label`, `value` (a number, a short text or null) and `note`; `verdicts`,
`notes` and `warnings` are sentences. What has another form is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moonrec.compare.numbers import is_finite_number

KeyFigure = tuple[str, object, str]
"""Label, value and note, for `Report.headline`."""

_FIGURES, _VERDICTS, _NOTES = "key_figures", "verdicts", ("warnings", "notes")
_MAX_SENTENCES, _LABEL, _VALUE, _SENTENCE = 20, 120, 40, 800


def figures_of(metrics: Mapping[str, Any], limit: int) -> list[KeyFigure]:
    """The key figures that a run chose itself; none where it chose none."""
    found = metrics.get(_FIGURES)
    read = (_figure(one) for one in (found if isinstance(found, list) else ()))
    return [one for one in read if one is not None][:limit]


def verdicts_of(metrics: Mapping[str, Any]) -> list[str]:
    """What the run found, in sentences."""
    return _sentences(metrics.get(_VERDICTS))


def notes_of(metrics: Mapping[str, Any]) -> list[str]:
    """What a reader must not miss."""
    return [text for name in _NOTES for text in _sentences(metrics.get(name))]


def measured_only(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics without what the run says of them, which is no measurement."""
    return {name: value for name, value in metrics.items() if name not in (_FIGURES, _VERDICTS, *_NOTES)}


def _figure(found: Any) -> KeyFigure | None:
    if not isinstance(found, Mapping) or not isinstance(found.get("label"), str):
        return None
    value, note = found.get("value"), found.get("note")
    if isinstance(value, str):
        value = _cut(value, _VALUE)
    elif not is_finite_number(value):
        value = None
    return _cut(found["label"], _LABEL), value, _cut(note, _SENTENCE) if isinstance(note, str) else ""


def _sentences(found: Any) -> list[str]:
    texts = [
        one for one in (found if isinstance(found, list) else ()) if isinstance(one, str) and one.strip()
    ]
    return [_cut(text, _SENTENCE) for text in texts[:_MAX_SENTENCES]]


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[:letters]}…"
