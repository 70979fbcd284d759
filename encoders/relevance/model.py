"""The relevance model: a logistic regression over a `Design`, kept as one JSON file.

Shapes: P pairs, F features, W inputs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from encoders.relevance.design import Design, Form
from encoders.relevance.query_vectors import MODALITIES
from moonrec.atomic import write_json
from moonrec.errors import UserError

FILE = "relevance.json"
_FORMAT = 1


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
        try:
            return _read(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            told = " ".join(str(error).split())
            raise UserError(f"{path}: is damaged ({told}); train the model again") from error


def _read(values: dict[str, Any]) -> RelevanceModel:
    if values["format"] != _FORMAT:
        raise ValueError(f"format {values['format']!r}, expected {_FORMAT}")
    given, setting = dict(values["design"]), dict(values["setting"])
    form = dict(given.pop("form"))
    form["only"] = None if form["only"] is None else tuple(form["only"])
    count = len(given["columns"])
    knots_FH = np.array(given.pop("knots_FH"), np.float64).reshape(count, -1) if count else np.zeros((0, 0))
    design = Design(
        form=Form(**form),
        columns=_whole_numbers(given["columns"], len(setting["features"])),
        names=tuple(given["names"]),
        mean_F=_numbers(given["mean_F"], count),
        scale_F=_numbers(given["scale_F"], count),
        knots_FH=knots_FH,
        flags=_whole_numbers(given["flags"], count),
        modalities=_whole_numbers(given["modalities"], len(MODALITIES)),
        expected_MF=_numbers(np.ravel(given["expected_MF"]), len(given["modalities"]) * count)
        .astype(bool)
        .reshape(-1, count),
    )
    setting |= {name: tuple(setting[name]) for name in ("features", "levels")}
    inputs = len(design.input_names(MODALITIES))
    intercept = _numbers([values["intercept"]], 1)
    return RelevanceModel(
        Setting(**setting), design, _numbers(values["weights"], inputs), float(intercept[0])
    )


def _numbers(values: Sequence[Any] | np.ndarray, count: int) -> np.ndarray:
    found = np.array(values, np.float64)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise ValueError(f"{found.shape} numbers where {count} finite ones belong")
    return found


def _whole_numbers(values: Sequence[Any], limit: int) -> tuple[int, ...]:
    if not all(isinstance(one, int) and 0 <= one < limit for one in values):
        raise ValueError(f"{values!r} where whole numbers from 0 to {limit - 1} belong")
    return tuple(values)
