"""What can be chosen about an `mllm` encoder: what decides its vectors, and how it is run.

`MllmConfig` is saved with the weights and enters the fingerprint. `MllmOptions` adds what changes only speed
and memory: precision, attention kernel and gradient checkpointing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any, Literal

from encoders.guided_moe import experts_fit
from encoders.products import Aspect
from moonrec.errors import UserError

DTYPES = ("auto", "float32", "bfloat16")
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")

Dtype = Literal["auto", "float32", "bfloat16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]

_MAX_SIZE = 65_536
_MAX_PIXELS = 16_384 * 28 * 28


@dataclass(frozen=True)
class MllmConfig:
    """What decides the vectors of an `mllm` encoder, beside its weights.

    Attributes:
        dims: Matryoshka sizes, largest first; the first is the width of the vectors.
        regions: whether the core region's crop follows the whole picture.
        experts: experts per feed-forward part; 0 = dense.
        experts_per_token: how many routed experts a token goes to.
        guided: whether two of the experts are forced (category, attributes); else all are routed to.
        expert_every: every n-th language layer has experts, counted from the last.
        lora_rank: rank of the low-rank adapters; 0 = all weights are trained.
        max_pixels: what a picture is shrunk to; 28 x 28 pixels make a token, for Qwen3-VL 32 x 32.
        title_tokens, category_tokens, attribute_tokens, description_tokens: how much of a text is read.
        from_scratch: there is no pretraining to hold on to, and everything learns at the full rate.
    """

    dims: tuple[int, ...] = (256,)
    regions: bool = True
    experts: int = 0
    experts_per_token: int = 2
    guided: bool = True
    expert_every: int = 1
    lora_rank: int = 0
    max_pixels: int = 256 * 28 * 28
    title_tokens: int = 64
    category_tokens: int = 32
    attribute_tokens: int = 96
    description_tokens: int = 128
    from_scratch: bool = False
    backbone: str = "mllm"

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.dims[0]

    def tokens_of(self, aspect: Aspect) -> int:
        """How many tokens of a text of this aspect are read."""
        return {
            Aspect.TITLE: self.title_tokens,
            Aspect.CATEGORY: self.category_tokens,
            Aspect.ATTRIBUTES: self.attribute_tokens,
            Aspect.DESCRIPTION: self.description_tokens,
        }[aspect]

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> MllmConfig:
        """The configuration in a JSON object; `where` names it in errors.

        Raises:
            UserError: it describes no `mllm` encoder, or one that cannot be.
        """
        known = {one.name for one in fields(cls)}
        if values.get("backbone") != "mllm" or set(values) - known:
            raise UserError(f"{where}: does not describe an mllm encoder")
        dims = values.get("dims")
        if isinstance(dims, list):
            values = values | {"dims": tuple(dims)}
        config = cls(**values)
        config.check(where)
        return config

    def check(self, where: str) -> None:
        """Raise a `UserError` that starts with `where` if a value cannot be."""
        sizes_ok = isinstance(self.dims, tuple) and all(_is_size(size, 1) for size in self.dims)
        if not sizes_ok or not self.dims or list(self.dims) != sorted(set(self.dims), reverse=True):
            raise UserError(f"{where}: dims {self.dims!r}, expected whole numbers from large to small")
        for name, lowest in _LOWEST.items():
            value = getattr(self, name)
            if not _is_size(value, lowest):
                raise UserError(f"{where}: {name} {value!r}, expected a whole number from {lowest}")
        if type(self.max_pixels) is not int or not 1024 <= self.max_pixels <= _MAX_PIXELS:
            raise UserError(f"{where}: max_pixels {self.max_pixels!r}, expected 1024 to {_MAX_PIXELS}")
        for name in ("regions", "guided", "from_scratch"):
            if type(getattr(self, name)) is not bool:
                raise UserError(f"{where}: {name} {getattr(self, name)!r}, expected true or false")
        if self.experts and not experts_fit(self.experts, self.experts_per_token, guided=self.guided):
            forced = "two are forced (category, attributes), and " if self.guided else ""
            raise UserError(
                f"{where}: {self.experts} experts, {self.experts_per_token} per token: {forced}a token's "
                f"experts must be found among {'the others' if self.guided else 'them'}"
            )


_LOWEST = {
    "experts": 0,
    "experts_per_token": 1,
    "expert_every": 1,
    "lora_rank": 0,
    "title_tokens": 1,
    "category_tokens": 1,
    "attribute_tokens": 1,
    "description_tokens": 1,
}


def _is_size(value: Any, lowest: int) -> bool:
    return type(value) is int and lowest <= value <= _MAX_SIZE


@dataclass(frozen=True)
class MllmRuntime:
    """How an `mllm` encoder is run; nothing of it is saved.

    Attributes:
        dtype: `auto` keeps the precision that the weights are stored in. To train all weights, take
            `float32` under bf16 autocast: updates are smaller than what bf16 weights can hold.
        attention: the attention kernel; `flash_attention_2` needs the package flash-attn and a GPU.
        gradient_checkpointing: recompute each layer in the backward pass, which saves memory for time.
    """

    dtype: Dtype = "auto"
    attention: Attention = "sdpa"
    gradient_checkpointing: bool = False

    def check_runtime(self) -> None:
        """Raise a `UserError` if a value is none of the known ones, or cannot be had here."""
        for name, value, known in (("dtype", self.dtype, DTYPES), ("attention", self.attention, ATTENTIONS)):
            if value not in known:
                raise UserError(f"{name} {value!r}: expected one of {', '.join(known)}")
        if self.attention == "flash_attention_2" and find_spec("flash_attn") is None:
            raise UserError(
                "attention 'flash_attention_2' needs the package flash-attn; say sdpa, or install it"
            )


@dataclass(frozen=True)
class MllmOptions(MllmRuntime, MllmConfig):
    """Everything to choose when an `mllm` encoder is made from a checkpoint or from nothing.

    Example:
        >>> MllmOptions(dims=(256, 128, 64), experts=4, dtype="float32").config.dim
        256
    """

    @property
    def config(self) -> MllmConfig:
        """The part that decides the vectors."""
        return MllmConfig(**{one.name: getattr(self, one.name) for one in fields(MllmConfig)})

    @property
    def runtime(self) -> MllmRuntime:
        """The part that decides how it is run."""
        return MllmRuntime(**{one.name: getattr(self, one.name) for one in fields(MllmRuntime)})
