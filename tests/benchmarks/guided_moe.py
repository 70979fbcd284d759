"""What the guided mixture of experts costs against the dense feed-forward part that it is made of.

    python tests/benchmarks/guided_moe.py
    python tests/benchmarks/guided_moe.py --rounds 5 --size compact

One forward and backward pass of each takes turns, so that a busy machine slows them alike; the table shows
medians. The bound is the arithmetic: a routed token takes k experts where it took one feed-forward part, a
forced token one, so a mixture without overhead takes (forced + k · routed) times the dense time.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import click
import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2MLP

from encoders.fusion import FeedForward
from encoders.guided_moe import GuidedMoE
from encoders.precision import autocast, has_fast_bf16, pick_device
from encoders.products import Aspect

_MIXTURES = [
    (experts, per_token, forced) for experts in (4, 8) for per_token in (1, 2) for forced in (0.0, 0.3)
]


@dataclass(frozen=True)
class Size:
    """A dense part and how many tokens it is given."""

    name: str
    dense: nn.Module
    width: int
    tokens: int


def compact(device: torch.device) -> Size:
    """A training step of the compact backbone: 256 products of 45 tokens; float32 weights, autocast."""
    return Size("compact: width 256, hidden 512, gelu", FeedForward(256, 2).to(device), 256, 256 * 45)


def language_model(device: torch.device) -> Size:
    """A layer of a small language model; weights in bf16 where that is fast, as such models are loaded."""
    config = Qwen2_5_VLTextConfig(hidden_size=1_024, intermediate_size=2_816, hidden_act="silu")
    dtype = torch.bfloat16 if has_fast_bf16(device) else torch.float32
    return Size("MLLM: width 1,024, hidden 2,816, SwiGLU", Qwen2MLP(config).to(device, dtype), 1_024, 4_096)


_SIZES = {"compact": compact, "mllm": language_model}


@click.command()
@click.option("--size", "names", multiple=True, default=tuple(_SIZES), type=click.Choice(tuple(_SIZES)))
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=os.cpu_count(), show_default=True, type=click.IntRange(1))
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
def main(names: tuple[str, ...], rounds: int, threads: int, device: str) -> None:
    """Print one Markdown table per size."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    place = pick_device(device)
    chip = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.machine()
    click.echo(f"{chip}, {threads} threads, torch {torch.__version__}, bf16 {has_fast_bf16(place)}")
    for name in names:
        click.echo(table(_SIZES[name](place), place, rounds))


def table(size: Size, device: torch.device, rounds: int) -> str:
    """Time the dense part and every mixture, and lay out what was found."""
    x_ND = torch.randn(size.tokens, size.width, device=device, dtype=next(size.dense.parameters()).dtype)
    passes = [dense_pass(size.dense, x_ND)]
    passes += [moe_pass(size, x_ND, *mixture) for mixture in _MIXTURES]
    dense, *mixtures = medians(passes, device, rounds)
    lines = [
        f"\n{size.name}, {size.tokens:,} tokens; dense {dense * 1e3:.1f} ms\n",
        "| experts | per token | forced tokens | ms | times dense | bound | over the bound |",
        "|---|---|---|---|---|---|---|",
    ]
    for (experts, per_token, forced), seconds in zip(_MIXTURES, mixtures, strict=True):
        ratio, bound = seconds / dense, forced + per_token * (1 - forced)
        lines.append(
            f"| {experts} | {per_token} | {forced:.0%} | {seconds * 1e3:.1f} | {ratio:.2f} | {bound:.2f} "
            f"| {ratio / bound - 1:+.0%} |"
        )
    return "\n".join(lines)


def dense_pass(dense: nn.Module, x_ND: Tensor) -> Callable[[], None]:
    """One forward and backward pass of the dense part."""
    forward = (lambda x: dense(x, None, None)) if isinstance(dense, FeedForward) else dense
    return training_pass(dense, forward, x_ND)


def moe_pass(size: Size, x_ND: Tensor, experts: int, per_token: int, forced: float) -> Callable[[], None]:
    """The same of a mixture, on tokens of which a share of `forced` are told their expert."""
    moe = GuidedMoE.upcycle(size.dense, width=size.width, experts=experts, experts_per_token=per_token)
    aspect_N = torch.full((size.tokens,), int(Aspect.IMAGE), device=x_ND.device)
    number = int(size.tokens * forced)
    guided = torch.tensor([Aspect.CATEGORY, Aspect.ATTRIBUTES], device=x_ND.device)
    aspect_N[torch.randperm(size.tokens, device=x_ND.device)[:number]] = guided[
        torch.arange(number, device=x_ND.device) % 2
    ]
    return training_pass(moe, lambda x: moe(x, aspect_N), x_ND)


def training_pass(module: nn.Module, forward: Callable[[Tensor], Tensor], x_ND: Tensor) -> Callable[[], None]:
    """Forward in the precision that training uses, backward to the tokens and all weights."""
    grad_ND = torch.randn_like(x_ND)

    def run() -> None:
        x = x_ND.detach().requires_grad_()
        module.zero_grad(set_to_none=True)
        with autocast(x_ND.device):
            y_ND = forward(x)
        y_ND.backward(grad_ND.to(y_ND.dtype))

    return run


def medians(passes: list[Callable[[], None]], device: torch.device, rounds: int) -> list[float]:
    """Seconds of each pass; they take turns, and the first round is not counted."""
    seconds: list[list[float]] = [[] for _ in passes]
    for number in range(rounds + 1):
        for taken, run in zip(seconds, passes, strict=True):
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in seconds]


if __name__ == "__main__":
    main()
