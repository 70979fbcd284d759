"""Where training runs: one process or several, in which precision, replicated or sharded.

Accelerate sets up devices and processes under `torchrun` and replicates the encoder (DDP). Sharded training
(`--fsdp`) is torch's own `fully_shard`, applied layer by layer: unlike Accelerate's plugin it also runs on
CPUs, where two gloo processes test it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from torch import nn

from encoders.encoder import Encoder
from encoders.precision import has_fast_bf16, pick_device
from encoders.training_state import weights_of
from moonrec.errors import UserError

PRECISIONS = ("auto", "bf16", "fp32")
_MLLM_CHUNK = 16


@dataclass(frozen=True)
class Wrapped:
    """A module as training calls it, and the context in which its gradients are not yet averaged."""

    module: nn.Module
    no_sync: Callable[[], AbstractContextManager[None]]


def make_accelerator(device_name: str, precision: str, *, find_unused: bool) -> Accelerator:
    """The processes of this run.

    Args:
        device_name: auto, cpu, cuda, cuda:1, ...
        precision: of training steps: `auto` multiplies in bf16 where the hardware does so natively, `bf16`
            always, `fp32` never. What has no gradient (features, validation, export) goes by the hardware.
        find_unused: whether a step may leave parameters without gradient, see `needs_find_unused`.

    Raises:
        UserError: there is no such device or precision.
    """
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}")
    device = pick_device(device_name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    # A second run in the same Python process may have another precision.
    AcceleratorState._reset_state()
    half = precision == "bf16" or (precision == "auto" and has_fast_bf16(device))
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if half else "no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=find_unused),
            # The others wait while the first process prepares the catalogue.
            InitProcessGroupKwargs(timeout=timedelta(days=2)),
        ],
    )


def needs_find_unused(encoder: Encoder) -> bool:
    """Whether a step may leave some of what is trained without gradient, as a batch without any picture."""
    return encoder.config.backbone != "compact" or getattr(encoder, "trains_towers", False)


def default_chunk(encoder: Encoder, chunk_size: int | None) -> int:
    """Products in the encoder at once, 0 for the whole batch; `chunk_size` None takes the backbone's default.

    An MLLM's activations for a batch that is large enough to be contrasted fit on no GPU.
    """
    if chunk_size is not None:
        return chunk_size
    return _MLLM_CHUNK if encoder.config.backbone == "mllm" else 0


def check_fsdp(fsdp: bool, keep: float) -> None:
    """Raise a `UserError` where sharding is asked for together with a copy that would not be sharded."""
    if fsdp and keep:
        raise UserError("--fsdp goes with --keep 0: the encoder that vectors are held to is not sharded")


class PlacedEncoder:
    """An encoder on its device, replicated or sharded, which can be had whole again for saving.

    Args:
        encoder: changed in place.
        accelerator: the processes.
        fsdp: whether its weights are sharded.

    Attributes:
        encoder: the one to train; optimizers are made from its parameters as they are now.

    Raises:
        UserError: `fsdp` with a single process.
    """

    def __init__(self, encoder: Encoder, accelerator: Accelerator, *, fsdp: bool) -> None:
        # Sharding moves one unit after the other: no GPU ever holds the whole encoder.
        self.encoder = encoder.to("cpu" if fsdp else accelerator.device)
        self._accelerator = accelerator
        self._sharded = fsdp
        self._copy = self.encoder
        if fsdp:
            # Sharding is in place and has no way back: what is saved is this copy.
            if accelerator.is_main_process:
                self._copy = copy.deepcopy(self.encoder)
            _shard(self.encoder, accelerator)

    def wrap(self, module: nn.Module) -> Wrapped:
        """`module`, which holds the encoder, as training calls it."""
        if self._sharded:
            # Sharded gradients are averaged chunk by chunk: kept apart they would be as large as all weights.
            return Wrapped(module, nullcontext)
        # Accelerate keeps all that it has prepared, and with it the gradient buckets of the round before.
        self._accelerator.free_memory()
        prepared = self._accelerator.prepare(module)
        return Wrapped(prepared, lambda: self._accelerator.no_sync(prepared))

    def whole(self) -> Encoder | None:
        """The encoder in evaluation mode with all its weights, on the main process; None on the others.

        All processes call it.
        """
        weights = weights_of(self.encoder) if self._sharded else None
        if not self._accelerator.is_main_process:
            return None
        if weights is not None:
            self._copy.load_state_dict(weights)
        return self._copy.eval()


def _shard(encoder: Encoder, accelerator: Accelerator) -> None:
    """Split an encoder's weights, gradients and optimizer states over the processes, in place (FSDP2).

    Every layer of its transformers becomes a unit that is gathered when it computes; an optimizer must be
    made after this.

    Raises:
        UserError: there is only one process.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    if accelerator.num_processes == 1:
        raise UserError("--fsdp shards over processes; start several with torchrun --nproc-per-node N")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    half = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
    for layer in _layers(encoder):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # By itself: it is float32 and computes so, and a unit's weights must be of one precision.
    fully_shard(encoder.out, mesh=mesh)  # type: ignore[arg-type]
    # A checkpoint's own temperature, which nothing here trains, cannot be split.
    scalars = {parameter for parameter in encoder.parameters() if not parameter.dim()}
    for scalar in scalars:
        scalar.data = scalar.data.to(accelerator.device)
    fully_shard(encoder, mesh=mesh, mp_policy=policy, ignored_params=scalars)
    # The language model's loss is a method of its own, which gathers weights as `forward` does.
    if hasattr(encoder, "next_token_loss"):
        register_fsdp_forward_method(encoder, "next_token_loss")


def _layers(encoder: nn.Module) -> list[nn.Module]:
    """The layers of every stack of layers, innermost units first."""
    stacks = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    return [layer for stack in stacks for layer in stack if any(True for _ in layer.parameters())]
