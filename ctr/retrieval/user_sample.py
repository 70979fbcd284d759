"""Vectors of some training users, saved with the model: an index that is built later is tuned with them.

Legend: S users of the sample, D width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from moonrec.atomic import atomic_file
from moonrec.errors import UserError

FILE = "user_sample.safetensors"
"""Its name in the folder of the model."""
_NAME = "users"


def save_sample(folder: Path, sample_SD: NDArray[np.float32]) -> None:
    """Write the sample into `folder`, that of the model.

    Raises:
        UserError: the disk is full.
    """
    with atomic_file(folder / FILE) as temporary:
        temporary.write_bytes(save({_NAME: np.ascontiguousarray(sample_SD)}))


def load_sample(folder: Path, dim: int) -> NDArray[np.float32]:
    """Read what `save_sample` wrote, float32 (S, D).

    Args:
        folder: that of the model.
        dim: D above.

    Raises:
        UserError: the file is missing or damaged, or its vectors are none of this model's.
    """
    path = folder / FILE
    try:
        sample_SD = load_file(path)[_NAME]
    # The last two: a type of numbers that numpy does not have.
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is missing or damaged ({error}); train the model again") from error
    fits = sample_SD.ndim == 2 and sample_SD.shape[1] == dim and len(sample_SD) > 0
    if not fits or sample_SD.dtype != np.float32 or not np.isfinite(sample_SD).all():
        raise UserError(
            f"{path}: holds {sample_SD.dtype} {sample_SD.shape}, expected finite float32 vectors of {dim}; "
            "train the model again"
        )
    return np.asarray(sample_SD)
