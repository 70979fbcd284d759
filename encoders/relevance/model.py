"""The relevance model: a logistic regression over a `Design`, kept as one JSON file.

Shapes: P pairs, F features, W inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoders.relevance.design import QUANTILES, Design, Form
from encoders.relevance.query_vectors import MODALITIES
from moonrec.atomic import write_json
from moonrec.compare.bounded_files import read_json_object
from moonrec.errors import UserError

FILE = "relevance.json"
_FORMAT = 1
# A thousand times what a model takes.
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Setting:
    """What a model was trained on, without which its scores mean nothing.

    Attributes:
        encoder: how the encoder was named.
        encoder_fingerprint: of its weights.
        dim: width of the vectors.
        items_fingerprint: of the catalogue.
        features: names of all features, in order.
        levels: the category levels among them.
    """

    encoder: str
    encoder_fingerprint: str
    dim: int
    items_fingerprint: str
    features: tuple[str, ...]
    levels: tuple[int, ...]


@dataclass(frozen=True)
class RelevanceModel:
    """Features of pairs to probabilities.

    Attributes:
        setting: what it was trained on.
        design: how features become inputs.
        weight_W, intercept: of the calibrated logit.
    """

    setting: Setting
    design: Design
    weight_W: np.ndarray
    intercept: float

    def __call__(self, feature_PF: np.ndarray, modality_P: np.ndarray) -> np.ndarray:
        """Relevance (P,) float64 in (0, 1); NaN where the training had no query of that modality."""
        logit_P = self.design(feature_PF, modality_P) @ self.weight_W + self.intercept
        relevance_P = np.exp(-np.logaddexp(0.0, -logit_P))
        return np.where(self.is_familiar(modality_P), relevance_P, np.nan)

    def is_familiar(self, modality_P: np.ndarray) -> np.ndarray:
        """Whether queries of these modalities (P,) stood in training."""
        return np.isin(modality_P, self.design.modalities)

    def weights(self) -> list[dict[str, Any]]:
        """`{"input", "weight"}` of every input, the greatest first; features count in standard deviations."""
        names = self.design.input_names(MODALITIES)
        order = np.argsort(-np.abs(self.weight_W), kind="stable")
        return [{"input": names[one], "weight": float(self.weight_W[one])} for one in order]

    def save(self, folder: Path) -> None:
        """Write `relevance.json` into a folder."""
        design = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in asdict(self.design).items()
        }
        values = {
            "format": _FORMAT,
            "setting": asdict(self.setting),
            "design": design,
            "weights": self.weight_W.tolist(),
            "intercept": self.intercept,
        }
        write_json(folder / FILE, values)

    @classmethod
    def load(cls, run: str | Path) -> RelevanceModel:
        """The model of a run folder of `train-relevance`.

        Raises:
            UserError: there is none, or its file is damaged.
        """
        path = Path(run) / "model" / FILE
        if not path.is_file():
            raise UserError(
                f"{run}: holds no relevance model (no model/{FILE}); name a run folder of `moonrec "
                "train-relevance`"
            )
        values = read_json_object(path, _MOST_BYTES)
        try:
            return _read(values)
        except (ValueError, KeyError, TypeError) as error:
            told = " ".join(repr(error).split())[:200]
            raise UserError(f"{path}: is damaged ({told}); train the model again") from error


def _read(values: dict[str, Any]) -> RelevanceModel:
    if values["format"] != _FORMAT:
        raise ValueError(f"format {values['format']!r}, expected {_FORMAT}")
    setting = _setting(values["setting"])
    design = _design(values["design"], setting)
    weight_W = _numbers(values["weights"], len(design.input_names(MODALITIES)))
    return RelevanceModel(setting, design, weight_W, float(_numbers([values["intercept"]], 1)[0]))


def _setting(given: dict[str, Any]) -> Setting:
    setting = Setting(**given | {name: tuple(given[name]) for name in ("features", "levels")})
    texts = (setting.encoder, setting.encoder_fingerprint, setting.items_fingerprint, *setting.features)
    if not all(isinstance(one, str) for one in texts):
        raise ValueError(f"{texts!r} where texts belong")
    if not all(type(one) is int and one > 0 for one in (setting.dim, *setting.levels)):
        raise ValueError(f"dim {setting.dim!r} and levels {setting.levels!r}, expected whole numbers above 0")
    return setting


def _design(given: dict[str, Any], setting: Setting) -> Design:
    only = given["form"]["only"]
    form = Form(**given["form"] | {"only": None if only is None else tuple(only)})
    columns = _places(given["columns"], len(setting.features))
    modalities = _places(given["modalities"], len(MODALITIES))
    count, knots = len(columns), len(QUANTILES) if form.curved else 0
    if not (columns and modalities):
        raise ValueError("no columns or no modalities")
    scale_F = _numbers(given["scale_F"], count)
    if scale_F.min() <= 0:
        raise ValueError(f"a scale of {scale_F.min()}")
    return Design(
        form=form,
        columns=columns,
        names=tuple(setting.features[one] for one in columns),
        mean_F=_numbers(given["mean_F"], count),
        scale_F=scale_F,
        knots_FH=_numbers(given["knots_FH"], count, knots),
        flags=_places(given["flags"], count),
        modalities=modalities,
        expected_MF=_numbers(given["expected_MF"], len(modalities), count).astype(bool),
    )


def _numbers(values: Sequence[Any], *shape: int) -> np.ndarray:
    found = np.array(values, np.float64)
    if found.shape != shape or not np.isfinite(found).all():
        raise ValueError(f"numbers of shape {found.shape} where finite ones of shape {shape} belong")
    return found


def _places(values: Sequence[Any], limit: int) -> tuple[int, ...]:
    found = tuple(values)
    if not all(type(one) is int and 0 <= one < limit for one in found) or list(found) != sorted(set(found)):
        raise ValueError(f"{values!r} where ascending whole numbers from 0 to {limit - 1} belong")
    return found
