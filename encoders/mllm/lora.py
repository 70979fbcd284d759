"""Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685) for people without a room full of GPUs."""

from __future__ import annotations

from typing import Any

from encoders.guided_moe import GuidedMoE
from moonrec.errors import UserError

# The linear layers of the language model; feed-forward parts that are experts have none of these names.
_TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_MARK = "lora_"


def add_adapters(model: Any, rank: int) -> None:
    """Put adapters of this rank beside the language model's linear layers, and freeze all else, in place.

    Experts stay trainable as they are: they start as copies of one dense layer, and frozen they would compute
    what that layer computes for ever. What is trained is float32, whatever the model is: bf16 cannot hold
    most of an optimizer's updates.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("--lora-rank needs the package peft; run: pip install peft") from error
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=_TARGETS)
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_MARK in name)
        if _MARK in name:
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, GuidedMoE):
            module.requires_grad_(True).float()


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return _MARK in name
