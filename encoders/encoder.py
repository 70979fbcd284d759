"""What every backbone is to the rest: products in a table, batches of them, unit vectors out.

Three backbones stand behind it: `compact` (two small towers and a fusion transformer), `mllm` (a generative
multimodal language model) and `dual` (two towers of CLIP kind, the baseline). Training, export and evaluation
know this file and no backbone.

Shapes: B products of a batch, N products of a table, C channels, E embedding width.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from encoders.guided_moe import GuidedMoE
from encoders.products import EVERYTHING, BrokenImages, Product, View
from moonrec.errors import UserError

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


class ProductBatch(Protocol):
    """B products as one backbone wants them."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""

    def is_empty_B(self) -> Tensor:
        """True for products of which nothing is there to encode."""


class ProductTable(Protocol):
    """N products, read by row."""

    def __len__(self) -> int: ...

    def gather(self, rows: np.ndarray, view: View = EVERYTHING) -> ProductBatch:
        """The products at `rows` (B,), of which only the aspects in `view` are shown."""

    def lengths(self) -> np.ndarray:
        """About how many tokens each product (N,) has, for batching by length."""

    def has_image(self) -> np.ndarray:
        """Which products (N,) have a usable picture."""

    def has_text(self) -> np.ndarray:
        """Which products (N,) have any words."""


class Preparer(Protocol):
    """Turns raw products into tables of what a backbone reads; counts the pictures that cannot be used."""

    broken: BrokenImages

    def table(self, *tables: Iterable[list[Product]]) -> ProductTable:
        """All products of one or several tables, one after the other, as one table."""

    def shards(self, batches: Iterable[list[Product]]) -> Iterator[tuple[list[str], ProductTable]]:
        """The products' keys and tables, shard by shard: memory does not grow with the catalogue."""


class EncoderConfig(Protocol):
    """What every backbone's configuration says; each is a frozen dataclass."""

    @property
    def backbone(self) -> str:
        """`compact`, `mllm` or `dual`."""

    @property
    def dim(self) -> int:
        """Width E of the vectors."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Matryoshka sizes, largest first: prefixes of the vector that are trained to stand alone."""

    @property
    def regions(self) -> bool:
        """Whether the core region's crop enters beside the whole picture."""

    @property
    def experts(self) -> int:
        """Experts per feed-forward part; 0 for dense ones."""


class Encoder(nn.Module, ABC):
    """Products to unit vectors; the base of all backbones.

    Attributes:
        config: the backbone's configuration.
        keep_weight: how strongly post-training holds vectors to where they started, where nothing else is
            said: a pretrained space is worth keeping, a random one is not.
    """

    config: Any
    keep_weight: float = 1.0

    @abstractmethod
    def forward(self, batch: Any) -> Tensor:
        """A batch of its own tables to unit vectors (B, E) float32; zeros where nothing is to encode."""

    @abstractmethod
    def calibrate(self, table: Any, rows: np.ndarray | None = None, seed: int = 0) -> None:
        """Fit the starting output projection to these products (`rows` of the table; default: all)."""

    @abstractmethod
    def preparer(self, cache: Path | None, device: torch.device) -> Preparer:
        """What makes this encoder's tables; `cache` is a folder for features that are worth keeping."""

    def training_preparer(self, cache: Path | None, device: torch.device, folder: Path) -> Preparer:
        """What makes the tables that training reads; `folder` is for what is too large for memory."""
        del folder
        return self.preparer(cache, device)

    @abstractmethod
    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Trainable parameters with their learning rates, for AdamW."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write everything that `from_pretrained` needs into `folder`."""

    @classmethod
    @abstractmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Load what `save_pretrained` wrote, in evaluation mode.

        Raises:
            UserError: the folder is incomplete, or weights and configuration do not fit.
        """

    def fingerprint(self) -> str:
        """A digest of the configuration and every weight: the same digest, the same vectors."""
        hasher = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            hasher.update(name.encode())
            hasher.update(bytes_of(value))
        return hasher.hexdigest()

    def guided_experts(self) -> list[GuidedMoE]:
        """The mixtures of experts among the layers, first layer first."""
        return [module for module in self.modules() if isinstance(module, GuidedMoE)]


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor of any dtype, without a copy where it lies on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def save_weights(encoder: Encoder, folder: Path) -> None:
    """Write `model.safetensors` and `config.json` into `folder`, which is made if need be.

    Weights on the CPU are written from where they are: memory does not hold them twice.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{WEIGHTS_FILE}.tmp"
    temporary.unlink(missing_ok=True)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(_storable(encoder.state_dict()), temporary, metadata={"format": "pt"})
        temporary.chmod(mode)  # what the umask says; `save_file` lets only their owner read its files
        temporary.replace(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        # The library hides what went wrong with the disk in its text.
        if found := re.search(r"os error ([0-9]+)", str(error)):
            raise OSError(int(found[1]), str(error)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    text = json.dumps(asdict(encoder.config), indent=2)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def _storable(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU; where layers share one it is copied, since the format knows no sharing."""
    found: dict[str, Tensor] = {}
    stored: set[int] = set()
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in stored:
            tensor = tensor.clone()
        stored.add(tensor.untyped_storage().data_ptr())
        found[name] = tensor
    return found


def load_weights(encoder: Encoder, folder: Path) -> None:
    """Read `model.safetensors` of `folder` into an encoder built from its `config.json`, tensor by tensor.

    Raises:
        UserError: there is no such file, it is damaged, or it does not fit.
    """
    path, own = folder / WEIGHTS_FILE, encoder.state_dict()
    try:
        with safe_open(path, "pt") as file, torch.no_grad():
            _check_shapes(own, {name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
            for name, value in own.items():
                value.copy_(file.get_tensor(name))
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        first = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: does not fit {CONFIG_FILE} ({first})") from error


def _check_shapes(own: Mapping[str, Tensor], stored: Mapping[str, Sequence[int]]) -> None:
    """Raises ValueError where the weights of a file are not those that an encoder has."""
    for kind, names in (("missing", own.keys() - stored.keys()), ("unexpected", stored.keys() - own.keys())):
        if names:
            raise ValueError(f"{kind}: {', '.join(sorted(names)[:3])}; {len(names)} in all")
    for name, value in own.items():
        if list(value.shape) != list(stored[name]):
            raise ValueError(f"{name} is {list(stored[name])} rather than {list(value.shape)}")


def read_config(folder: Path) -> dict[str, Any]:
    """The JSON object in `config.json` of an encoder's folder.

    Raises:
        UserError: there is none, or it is no JSON object.
    """
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: no readable encoder configuration; expected an encoder's folder") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: no readable encoder configuration; expected an encoder's folder")
    return values


def principal_directions(x_NC: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` leading principal directions (count, C) of rows scaled to unit length, and the projections.

    Directions beyond the rank are zero. The mean is not removed.
    """
    x_NC = nn.functional.normalize(x_NC.float(), dim=1)
    # Of a symmetric matrix these are its eigenvectors; `eigh` does not converge on a few pictures.
    _, values, directions = torch.linalg.svd(x_NC.T @ x_NC)
    kept = values[:count] > 1e-6 * values[0].clamp_min(1e-12)
    directions = directions[:count] * kept[:, None]
    if len(directions) < count:
        directions = torch.cat([directions, directions.new_zeros(count - len(directions), x_NC.shape[1])])
    return directions, x_NC @ directions.T
