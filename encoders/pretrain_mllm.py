"""Stage 1 of the MLLM: next-token training on questions about the catalogue's products (MOON Embedding,
arXiv 2511.11305: "domain knowledge injection").

What is asked, in which order and at which learning rate is decided by seed, epoch and step alone: a run that
was killed goes on from its last epoch to the same weights. Batches are cut into pieces that fit in memory
and shared among the processes without changing the gradient.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from encoders.encoder import Encoder
from encoders.launch import PlacedEncoder
from encoders.mllm.encoder import MllmEncoder
from encoders.pairs import product_codes
from encoders.product_qa.dialogues import Dialogues
from encoders.product_qa.epoch import Epochs
from encoders.product_qa.held_out_loss import HeldOutLoss
from encoders.product_qa.next_token_step import NextTokenStep
from encoders.product_qa.options import NextTokenConfig
from encoders.product_qa.questions import Dialogue, ProductQA
from encoders.product_qa.split import split_items
from encoders.product_qa.state import NextTokenState
from encoders.raw_products import RawProducts
from moonrec.runs import Run
from moonrec.tables import Table

__all__ = ["NextTokenConfig", "pretrain_mllm"]

_EXAMPLES = 8
_CURVE_POINTS = 20


def pretrain_mllm(
    config: NextTokenConfig,
    encoder: MllmEncoder,
    items: Table,
    products: RawProducts,
    accelerator: Accelerator,
    run: Run | None,
    checkpoint: Path,
    *,
    fsdp: bool = False,
) -> tuple[dict[str, Any], Encoder | None]:
    """Train `encoder` in place and leave it with the best weights, in evaluation mode.

    Args:
        config: see `NextTokenConfig`.
        encoder: the model to train, best a dense one, whose experts are made afterwards: the words of a
            dialogue are all routed, and the experts of category and attributes would see none. What the loss
            does not reach (the output projection, and the picture's tower where a batch has no picture) gets
            no gradient: `DistributedDataParallelKwargs(find_unused_parameters=True)` has to say so.
        items: the catalogue.
        products: its pictures and texts, row by row.
        accelerator: whose processes share the work.
        run: where to log; None on all processes but the main one.
        checkpoint: folder of the state after every epoch; where one lies there, training goes on from it.
        fsdp: whether the weights are sharded over the processes.

    Returns:
        The metrics, and on the main process the whole encoder. The metrics:
        `validation.start` and `validation.best`: mean loss per answer token of held-out products, overall and
        by task; `best_epoch` (0: no epoch was better than the start); `epochs`; `questions`: `items` that
        each task could be asked about, questions `asked` per task; `held_out`: number of items; `examples`
        of held-out questions with the true and the generated answer; `train`: speed.

    Raises:
        UserError: nothing to ask about, fewer items than processes, or a loss that is not finite.
    """
    qa = ProductQA.from_table(items, products.has_image())
    item_ids = items.read(["item_id"]).column("item_id").to_pylist()
    split = split_items(qa.rows(), product_codes(items, item_ids), config.seed)
    dialogues = Dialogues(encoder, qa, products, config.seed)
    held_out = HeldOutLoss(dialogues, split.held_out, config.micro_batch)
    epochs = Epochs(config, dialogues, split.training, item_ids)
    placed = PlacedEncoder(encoder, accelerator, fsdp=fsdp)
    groups = encoder.parameter_groups(config.learning_rate)
    rates = [float(group["lr"]) for group in groups]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    prepared = placed.wrap(NextTokenStep(encoder).train()).module
    state = _begin(prepared, encoder, optimizer, held_out, accelerator, run, checkpoint)
    begun, asked_before = time.perf_counter(), sum(state.asked.values())
    while state.epoch < config.epochs and state.stale < config.patience:
        state.epoch += 1
        # Whatever is random inside the model must be the same after a resume.
        torch.manual_seed(config.seed * 100_003 + state.epoch)
        losses, asked = epochs.train(state.epoch, prepared, optimizer, rates, accelerator)
        state.asked = dict(Counter(state.asked) + asked)
        held = held_out(prepared, accelerator)
        state.record(held)
        if run is not None:
            run.log(epoch=state.epoch, loss=float(np.mean(losses)), curve=_curve(losses), **_named(held))
        state.save(checkpoint, encoder, optimizer, run)
    seconds = time.perf_counter() - begun
    accelerator.wait_for_everyone()
    state.load_best(checkpoint, encoder)
    # The main process may move the checkpoint away once it has returned.
    accelerator.wait_for_everyone()
    shown, whole = [], placed.whole()
    if whole is not None:
        assert isinstance(whole, MllmEncoder)
        shown = _examples(Dialogues(whole, qa, products, config.seed), held_out.drawn, item_ids)
    metrics = {
        "validation": {"start": state.start, "best": state.best},
        "best_epoch": state.best_epoch,
        "epochs": state.epoch,
        "questions": {"items": qa.items_per_task(), "asked": state.asked},
        "held_out": len(split.held_out),
        "examples": shown,
        "train": {
            "seconds": seconds,
            "questions_per_second": (sum(state.asked.values()) - asked_before) / max(seconds, 1e-9),
        },
    }
    return metrics, whole


def _begin(
    prepared: nn.Module,
    encoder: MllmEncoder,
    optimizer: torch.optim.Optimizer,
    held_out: HeldOutLoss,
    accelerator: Accelerator,
    run: Run | None,
    checkpoint: Path,
) -> NextTokenState:
    """The state that a killed run left, or that before the first step."""
    resuming = NextTokenState.exists(checkpoint)
    # Before anybody writes there, everybody has looked.
    accelerator.wait_for_everyone()
    if resuming:
        state = NextTokenState.resume(checkpoint, encoder, optimizer)
        if run is not None:
            run.rewind_history(state.history_lines)
        return state
    start = held_out(prepared, accelerator)
    state = NextTokenState(start=start, best=start)
    if run is not None:
        run.rewind_history(0)
        run.log(epoch=0, loss=None, curve=[], **_named(start))
    state.save(checkpoint, encoder, optimizer, run)
    return state


def _named(held_out: dict[str, float]) -> dict[str, float]:
    return {f"held_out_{name}": value for name, value in held_out.items()}


def _curve(losses: list[float]) -> list[float]:
    """The losses of an epoch's steps as at most 20 means of equal stretches."""
    parts = np.array_split(np.array(losses), min(_CURVE_POINTS, len(losses)))
    return [float(part.mean()) for part in parts]


def _examples(
    dialogues: Dialogues, drawn: Sequence[Dialogue], item_ids: Sequence[str]
) -> list[dict[str, str]]:
    """A few held-out questions, spread over the tasks, with the true and the generated answer."""
    by_task: dict[str, list[Dialogue]] = {}
    for one in drawn:
        by_task.setdefault(one.task, []).append(one)
    turns = zip_longest(*by_task.values())
    chosen = [one for turn in turns for one in turn if one is not None][:_EXAMPLES]
    return [
        {
            "item_id": item_ids[one.row],
            "task": one.task,
            "question": one.question,
            "answer": one.answer,
            "generated": generated,
        }
        for one, generated in zip(chosen, dialogues.answers(chosen), strict=True)
    ]
