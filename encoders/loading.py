"""From what a person names on the command line to an encoder: a run, a checkpoint, or a new one."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from encoders.compact import CompactConfig, CompactEncoder
from encoders.encoder import Encoder, read_config
from encoders.features import default_cache
from encoders.guided_moe import experts_fit
from encoders.products import iter_items
from moonrec.errors import UserError
from moonrec.tables import Table

if TYPE_CHECKING:
    from encoders.dual import DualOptions
    from encoders.mllm.options import MllmOptions

COMPACT, TINY_MLLM = "compact", "tiny-mllm"
Stage = Literal["use", "pretrain", "posttrain"]
_CHOICES = ("dims", "experts", "experts_per_token", "guided", "regions")
_CHECKPOINT_OPTIONS = ("lora_rank", "dtype", "attention", "gradient_checkpointing")


@dataclass(frozen=True)
class StartOptions:
    """How an encoder is built. None stands for the default of a new one, and for what a trained one has.

    Attributes:
        dims: Matryoshka sizes, largest first.
        experts: experts per feed-forward part, 0 for dense ones; a dense encoder can still be given some.
            New compact encoders have 6. An MLLM is given its 6 where post-training starts, for answering
            questions says nothing of aspects: one that is new there, or a dense one without adapters.
        experts_per_token: routed experts that see a token.
        guided: whether two of the experts are the category's and the attributes'; false routes every token.
        regions: whether the core region's crop enters beside the whole picture.
        train_towers: whether the compact backbone's towers are trained.
        lora_rank: of low-rank adapters in an MLLM's language layers; 0 trains the layers themselves.
        dtype: of an MLLM's or dual encoder's weights: float32, bfloat16, or auto: as stored, but float32
            where all of them are trained, since bf16 cannot hold most of an optimizer's updates.
        attention: implementation of attention in transformers: sdpa, eager, ...
        gradient_checkpointing: compute activations again in the backward pass, for less memory.
        seed: of everything that starts at random.
        stage: what the encoder is for. To `use` it, it is taken as it is stored.
    """

    dims: tuple[int, ...] | None = None
    experts: int | None = None
    experts_per_token: int | None = None
    guided: bool | None = None
    regions: bool | None = None
    train_towers: bool = False
    lora_rank: int = 0
    dtype: str = "auto"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    seed: int = 0
    stage: Stage = "use"

    @classmethod
    def of(cls, config: object, stage: Stage) -> StartOptions:
        """The options among the fields of a command's configuration, for a stage."""
        names = {field.name for field in fields(cls)} & set(vars(config))
        return cls(**{name: getattr(config, name) for name in names}, stage=stage)


def load_encoder(name_or_path: str, items: Table | None = None) -> tuple[Encoder, bool]:
    """An encoder as it is, and whether it is ready; one that is not wants `calibrate` on a catalogue first.

    See `start_encoder`, which this calls with default options.
    """
    return start_encoder(name_or_path, StartOptions(), items)


def start_encoder(name: str, options: StartOptions, items: Table | None = None) -> tuple[Encoder, bool]:
    """An encoder by name, and whether it is ready to encode.

    Args:
        name: a run folder, a model folder, a folder or hub name of a checkpoint (Qwen-VL, CLIP, SigLIP,
            Chinese-CLIP), `compact` (untrained) or `tiny-mllm` (a few million random weights).
        options: for encoders that start here, and what is to be done with them.
        items: the catalogue that `tiny-mllm` takes its words from.

    Raises:
        UserError: nothing loadable stands there, or it is of a kind that is not supported.
    """
    dims = options.dims
    if dims is not None and (not dims or min(dims) < 1 or list(dims) != sorted(set(dims), reverse=True)):
        raise UserError(
            f"--dims {','.join(map(str, dims))}: expected sizes from large to small, as 256,128,64"
        )
    torch.manual_seed(options.seed)
    if name == COMPACT:
        return _untrained_compact(options), False
    if name == TINY_MLLM:
        return _tiny_mllm(options, items), False
    folder = _local_folder(name)
    values = read_config(folder)
    if "backbone" in values:
        return _adapted(_ours(folder, str(values["backbone"]), options), options, name), True
    return _checkpoint(folder, str(values.get("model_type")), options), False


def check_experts(experts: int, experts_per_token: int, *, guided: bool) -> None:
    """Raise a `UserError` if there cannot be so many experts."""
    if not experts or (experts <= 1024 and experts_fit(experts, experts_per_token, guided=guided)):
        return
    if guided:
        raise UserError(
            f"{experts} experts, {experts_per_token} per token: two are for category and attributes, and a "
            "token takes its own among the others; say --experts 0, or 3 to 1024 with at least two more than "
            "--experts-per-token"
        )
    raise UserError(
        f"{experts} experts, {experts_per_token} per token: say --experts 0, or --experts-per-token to 1024"
    )


def cache_folder(cache: str | Path | None) -> Path | None:
    """The folder of the feature cache: `None` is the default one, "" none."""
    return default_cache() if cache is None else (Path(cache) if str(cache) else None)


def _untrained_compact(options: StartOptions) -> CompactEncoder:
    _refuse_checkpoint_options(options)
    config = replace(CompactConfig(), **_chosen(options, *_CHOICES))
    check_experts(config.experts, config.experts_per_token, guided=config.guided)
    encoder = CompactEncoder(config).eval()
    return encoder.with_trained_towers() if options.train_towers else encoder


def _ours(folder: Path, backbone: str, options: StartOptions) -> Encoder:
    if backbone == "compact":
        _refuse_checkpoint_options(options)
        compact = CompactEncoder.from_pretrained(folder)
        return compact.with_trained_towers() if options.train_towers else compact
    if options.train_towers:
        raise UserError("--train-towers is for the compact backbone; the others train all they have")
    if backbone == "mllm":
        from encoders.mllm.encoder import MllmEncoder

        adapted = bool(read_config(folder).get("lora_rank"))
        return MllmEncoder.from_pretrained(folder, _mllm_options(options, adapted=adapted).runtime)
    if backbone == "dual":
        from encoders.dual import DualEncoder

        return DualEncoder.from_pretrained(folder, _dual_options(options).runtime)
    raise UserError(
        f"{folder / 'config.json'}: unknown backbone {backbone!r}; expected compact, mllm or dual"
    )


def _adapted(encoder: Encoder, options: StartOptions, name: str) -> Encoder:
    """A trained encoder with what the options add to it (experts, adapters).

    Raises:
        UserError: an option asks for what it was not built with and cannot be given any more.
    """
    config, asked, rank = encoder.config, options.experts, options.lora_rank
    has_adapters = bool(getattr(config, "lora_rank", 0))
    if asked is None and config.backbone == "mllm" and not has_adapters:
        asked = _mllm_experts(options)
    # The experts of a dual encoder are made with it.
    if asked and not config.experts and config.backbone != "dual":
        per_token = CompactConfig.experts_per_token
        per_token = per_token if options.experts_per_token is None else options.experts_per_token
        guided = config.guided if options.guided is None else options.guided
        check_experts(asked, per_token, guided=guided)
        encoder.upcycle(asked, per_token, guided=guided)  # type: ignore[operator]
    if rank and not has_adapters:
        if config.backbone != "mllm":
            raise UserError(f"--lora-rank: {name} is {config.backbone}; adapters are for MLLMs")
        # After the experts, which cannot be copies of layers that have adapters.
        encoder.adapt(rank)  # type: ignore[operator]
    # Without experts there is nobody to guide.
    choices = _CHOICES if encoder.config.experts else [one for one in _CHOICES if one != "guided"]
    wishes = {one: getattr(options, one) for one in choices}
    for option, wanted in (wishes | {"lora_rank": rank or None}).items():
        if wanted is not None and wanted != (has := getattr(encoder.config, option)):
            flag = option.replace("_", "-")
            raise UserError(f"--{flag}: {name} was built with {has}; leave it out, or start from another")
    return encoder


def _refuse_checkpoint_options(options: StartOptions) -> None:
    for option in _CHECKPOINT_OPTIONS:
        if getattr(options, option) != getattr(StartOptions, option):
            flag = option.replace("_", "-")
            raise UserError(
                f"--{flag} is for checkpoints of transformers; the compact backbone has no use for it"
            )


def _chosen(options: StartOptions, *names: str) -> dict[str, Any]:
    """The options that say anything."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _dual_options(options: StartOptions) -> DualOptions:
    from encoders.dual import DualOptions

    if options.lora_rank:
        raise UserError("--lora-rank is for MLLMs; a dual encoder trains its towers themselves")
    names = (*_CHOICES, "dtype", "attention", "gradient_checkpointing")
    shared = DualOptions(dims=CompactConfig.dims)
    return replace(shared, **_chosen(options, *names) | {"dtype": _dtype(options, adapted=False)})


def _tiny_mllm(options: StartOptions, items: Table | None) -> Encoder:
    from encoders.mllm.encoder import MllmEncoder

    if items is None:
        raise UserError(f"{TINY_MLLM} takes its words from a catalogue: name it with --items")
    texts = (text for batch in iter_items(items) for product in batch for _, text in product.texts)
    return MllmEncoder.tiny(texts, _mllm_options(options), seed=options.seed)


def _mllm_options(options: StartOptions, *, adapted: bool = False) -> MllmOptions:
    """The options of an MLLM; `adapted` if it has adapters already."""
    from encoders.mllm.options import MllmOptions

    shared = MllmOptions(dims=CompactConfig.dims, experts=_mllm_experts(options))
    names = (*_CHOICES, *_CHECKPOINT_OPTIONS)
    dtype = _dtype(options, adapted=adapted or bool(options.lora_rank))
    return replace(shared, **_chosen(options, *names) | {"dtype": dtype})


def _mllm_experts(options: StartOptions) -> int:
    """How many experts an MLLM is given where nobody says it."""
    return CompactConfig.experts if options.stage == "posttrain" else 0


def _dtype(options: StartOptions, *, adapted: bool) -> str:
    """The precision of the weights: float32 where all are trained, the stored one where most are frozen."""
    trained = options.stage != "use" and not adapted
    return "float32" if trained and options.dtype == "auto" else options.dtype


def _checkpoint(folder: Path, model_type: str, options: StartOptions) -> Encoder:
    from encoders.dual import DUAL_TYPES, DualEncoder
    from encoders.mllm.checkpoint import BOX_SCALES as MLLM_TYPES
    from encoders.mllm.encoder import MllmEncoder

    if options.train_towers:
        raise UserError("--train-towers is for the compact backbone; the others train all they have")
    if model_type in MLLM_TYPES:
        return MllmEncoder.from_checkpoint(str(folder), _mllm_options(options))
    if model_type in DUAL_TYPES:
        return DualEncoder.from_checkpoint(str(folder), _dual_options(options))
    supported = ", ".join(sorted((*MLLM_TYPES, *DUAL_TYPES)))
    raise UserError(
        f"{folder}: a checkpoint of type {model_type!r}, which is not supported; supported are {supported}"
    )


def _local_folder(name: str) -> Path:
    """The folder that holds an encoder's configuration, fetched from the hub where `name` is a name there."""
    # os.path and not Path: a name that is too long for the disk is no folder, and no crash.
    path = Path(name)
    if os.path.isfile(path / "model" / "config.json"):
        return path / "model"
    if os.path.isfile(path / "config.json"):
        return path
    if os.path.isdir(path):
        raise UserError(f"{name}: holds no encoder (no config.json, no model/config.json)")
    # A name on the hub is exactly owner/name; anything else was meant as a path.
    if os.path.exists(path) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"{name}: no such folder; an encoder is a run folder, a checkpoint, or `{COMPACT}` or "
            f"`{TINY_MLLM}` (untrained)"
        )
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{name}: no such folder, and not to be had from the hub ({first})") from error
