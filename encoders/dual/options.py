"""What can be chosen about a `dual` encoder: what decides its vectors, and how it is run.

`DualConfig` is saved with the weights and enters the fingerprint. `DualRuntime` is chosen anew each time:
precision, attention kernel and gradient checkpointing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from encoders.guided_moe import experts_fit
from moonrec.errors import UserError

DTYPES = ("auto", "float32", "bfloat16")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")

_MAX_SIZE = 65_536


@dataclass(frozen=True)
class DualConfig:
    """What decides the vectors of a `dual` encoder, beside its weights.

    Attributes:
        dims: Matryoshka sizes, largest first; the first is the width of the vectors.
        regions: whether the core region's crop is seen beside the whole picture.
        experts: experts per feed-forward part of the text tower; 0 = dense, the baseline.
        experts_per_token: how many routed experts a token goes to.
        guided: whether two of the experts are forced (category, attributes); else all are routed to.
    """

    dims: tuple[int, ...] = (256,)
    regions: bool = True
    experts: int = 0
    experts_per_token: int = 2
    guided: bool = True
    backbone: str = "dual"

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.dims[0]

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> DualConfig:
        """The configuration in a JSON object; `where` names it in errors.

        Raises:
            UserError: it describes no `dual` encoder, or one that cannot be.
        """
        if values.get("backbone") != "dual" or set(values) - {one.name for one in fields(cls)}:
            raise UserError(f"{where}: does not describe a dual encoder")
        dims = values.get("dims")
        config = cls(**values | ({"dims": tuple(dims)} if isinstance(dims, list) else {}))
        config.check(where)
        return config

    def check(self, where: str) -> None:
        """Raise a `UserError` that starts with `where` if a value cannot be."""
        dims = self.dims
        if not isinstance(dims, tuple) or not dims or not all(_is_count(size, 1) for size in dims):
            raise UserError(f"{where}: dims {dims!r}, expected whole numbers from large to small")
        if list(dims) != sorted(set(dims), reverse=True):
            raise UserError(f"{where}: dims {dims!r}, expected whole numbers from large to small")
        for name in ("regions", "guided"):
            if type(getattr(self, name)) is not bool:
                raise UserError(f"{where}: {name} {getattr(self, name)!r}, expected true or false")
        for name, lowest in (("experts", 0), ("experts_per_token", 1)):
            if not _is_count(getattr(self, name), lowest):
                raise UserError(f"{where}: {name} {getattr(self, name)!r}, expected a number from {lowest}")
        if self.experts and not experts_fit(self.experts, self.experts_per_token, guided=self.guided):
            forced = "two are forced (category, attributes), and " if self.guided else ""
            raise UserError(
                f"{where}: {self.experts} experts, {self.experts_per_token} per token: {forced}a token's "
                f"experts must be found among {'the others' if self.guided else 'them'}"
            )


@dataclass(frozen=True)
class DualRuntime:
    """How a `dual` encoder is run; nothing of it is saved.

    Attributes:
        dtype: precision of the towers' weights; `auto` keeps the one they are stored in. To train them take
            `float32` under bf16 autocast: updates are smaller than what bf16 weights can hold.
        attention: the attention kernel; `flash_attention_2` needs the package flash-attn and a GPU.
        gradient_checkpointing: recompute each layer in the backward pass, which saves memory for time.
    """

    dtype: str = "auto"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False

    def check_runtime(self) -> None:
        """Raise a `UserError` if a value is none of the known ones."""
        for name, value, known in (("dtype", self.dtype, DTYPES), ("attention", self.attention, ATTENTIONS)):
            if value not in known:
                raise UserError(f"{name} {value!r}: expected one of {', '.join(known)}")


@dataclass(frozen=True)
class DualOptions(DualRuntime, DualConfig):
    """Everything to choose when a `dual` encoder is made from a checkpoint.

    Example:
        >>> DualOptions(dims=(256, 64), attention="eager").config.dim
        256
    """

    @property
    def config(self) -> DualConfig:
        """The part that decides the vectors."""
        return DualConfig(**{one.name: getattr(self, one.name) for one in fields(DualConfig)})

    @property
    def runtime(self) -> DualRuntime:
        """The part that decides how it is run."""
        return DualRuntime(**{one.name: getattr(self, one.name) for one in fields(DualRuntime)})


def _is_count(value: Any, lowest: int) -> bool:
    return type(value) is int and lowest <= value <= _MAX_SIZE
