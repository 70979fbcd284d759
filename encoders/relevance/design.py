"""Features as the inputs of a linear model: standardised, missing ones flagged, bent and split by modality.

Shapes: P pairs, F features, W inputs, H knots of a feature, M query modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moonrec.errors import UserError

# Ours: three knots bend a curve where the pairs are; more did not pay on any of our data.
QUANTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Form:
    """Which inputs are made.

    Attributes:
        name: of the form.
        only: the features that are used; None: all that vary in training.
        curved: whether a feature enters as a piecewise linear curve.
        by_modality: whether each feature weighs differently per query modality.
    """

    name: str
    only: tuple[str, ...] | None = None
    curved: bool = False
    by_modality: bool = False


@dataclass(frozen=True)
class Design:
    """How features become inputs; everything in it was learnt from training pairs.

    Attributes:
        form: which inputs there are.
        columns: the places, among all features, of those that are used (F).
        names: their names.
        mean_F, scale_F: of the training pairs that have the feature.
        knots_FH: where curves bend, in standardised units; (F, 0) where they are straight.
        flags: features, as places among the F, whose unexpected absence is an input of its own.
        modalities: numbers of the query modalities that stood in training, ascending.
        expected_MF: whether pairs of each of these modalities can have a feature: a photo query without
            words lacks their similarities by its nature, an item without a picture lacks something.
    """

    form: Form
    columns: tuple[int, ...]
    names: tuple[str, ...]
    mean_F: np.ndarray
    scale_F: np.ndarray
    knots_FH: np.ndarray
    flags: tuple[int, ...]
    modalities: tuple[int, ...]
    expected_MF: np.ndarray

    @classmethod
    def fitted(
        cls, form: Form, names: Sequence[str], feature_PF: np.ndarray, modality_P: np.ndarray
    ) -> Design:
        """Learn scales, knots and flags from training pairs.

        Args:
            form: which inputs to make.
            names: of the features.
            feature_PF: NaN where a feature is missing.
            modality_P: numbers of the queries' modalities.

        Raises:
            UserError: none of the features varies.
        """
        wanted = [place for place, name in enumerate(names) if form.only is None or name in form.only]
        columns = tuple(place for place in wanted if _varies(feature_PF[:, place]))
        if not columns:
            raise UserError(
                "the similarities of all pairs are equal, as after a training that collapsed; take an "
                "earlier encoder, or train with a lower rate"
            )
        used_PF = feature_PF[:, columns]
        mean_F, scale_F = (np.array(found(used_PF, axis=0)) for found in (np.nanmean, np.nanstd))
        knots = QUANTILES if form.curved else ()
        standard_PF = (used_PF - mean_F) / scale_F
        knots_FH = np.nanquantile(standard_PF, knots, axis=0).T.reshape(len(columns), len(knots))
        modalities = np.unique(modality_P)
        expected_MF = np.stack([~np.isnan(used_PF[modality_P == one]).all(axis=0) for one in modalities])
        missing_PF = np.isnan(used_PF) & expected_MF[np.searchsorted(modalities, modality_P)]
        # Features that are missing together need one flag between them.
        _, first = np.unique(missing_PF, axis=1, return_index=True)
        flags = tuple(sorted(int(one) for one in first if missing_PF[:, one].any()))
        return cls(
            form, columns, tuple(names[one] for one in columns), mean_F, scale_F, knots_FH, flags,
            tuple(modalities.tolist()), expected_MF,
        )  # fmt: skip

    def __call__(self, feature_PF: np.ndarray, modality_P: np.ndarray) -> np.ndarray:
        """Inputs (P, W) of pairs with all features, NaN where one is missing."""
        used_PF = feature_PF[:, self.columns]
        # A missing feature is taken to be average; its flag tells that it is missing.
        standard_PF = np.nan_to_num((used_PF - self.mean_F) / self.scale_F, nan=0.0)
        missing_PF = np.isnan(used_PF)
        parts = [standard_PF]
        for knot_F in self.knots_FH.T:
            parts.append(np.where(missing_PF, 0.0, np.maximum(standard_PF - knot_F, 0.0)))
        shapes_PW = np.concatenate(parts, axis=1)
        asked_PM = np.stack([modality_P == one for one in self.modalities[1:]], 1) if self._asks else None
        place_P = np.searchsorted(self.modalities, modality_P).clip(max=len(self.modalities) - 1)
        flags = list(self.flags)
        absent_PF = missing_PF[:, flags] & self.expected_MF[place_P][:, flags]
        inputs = [shapes_PW, absent_PF.astype(float)]
        if asked_PM is not None:
            inputs.append(asked_PM.astype(float))
            if self.form.by_modality:
                inputs += [shapes_PW * one_P[:, None] for one_P in asked_PM.T]
        return np.concatenate(inputs, axis=1)

    def input_names(self, modality_names: Sequence[str]) -> list[str]:
        """What each input (W) is, for people."""
        shapes = list(self.names)
        for number in range(self.knots_FH.shape[1]):
            shapes += [
                f"{name} above {knot:.3g}"
                for name, knot in zip(self.names, self._in_units(number), strict=True)
            ]
        found = [*shapes, *(f"no {self.names[one]}" for one in self.flags)]
        if self._asks:
            others = [modality_names[one] for one in self.modalities[1:]]
            found += [f"query: {one}" for one in others]
            if self.form.by_modality:
                found += [f"{shape}, query: {one}" for one in others for shape in shapes]
        return found

    @property
    def _asks(self) -> bool:
        """Whether the query's modality is an input: not for a model of single features alone."""
        return len(self.modalities) > 1 and self.form.only is None

    def _in_units(self, knot: int) -> np.ndarray:
        return np.asarray(self.knots_FH[:, knot] * self.scale_F + self.mean_F)


def _varies(feature_P: np.ndarray) -> bool:
    known = feature_P[~np.isnan(feature_P)]
    # Of equal numbers the computed spread is a rounding error, and not 0.
    return bool(len(known)) and bool(np.ptp(known) > 1e-6)
