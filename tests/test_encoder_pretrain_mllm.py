"""Next-token training on product questions: it learns, resumes to the same bits and stops at nonsense."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from encoder_helpers import picture, write_table

from encoders.mllm.encoder import MllmEncoder
from encoders.mllm.options import MllmOptions
from encoders.pretrain_mllm import NextTokenConfig, pretrain_mllm
from encoders.product_qa.dialogues import Dialogues
from encoders.product_qa.epoch import Epochs, learning_rate_factor
from encoders.product_qa.held_out_loss import HeldOutLoss
from encoders.product_qa.next_token_step import NextTokenStep, accumulate
from encoders.product_qa.questions import ProductQA
from encoders.product_qa.report import add_next_token_sections
from encoders.products import BrokenImages, iter_items
from encoders.raw_products import RawProducts
from moonrec.errors import UserError
from moonrec.process_group import leave_process_group
from moonrec.report import Report
from moonrec.runs import Run, open_run, partial_folder
from moonrec.tables import ITEMS, Table, open_table

KINDS = ("boot", "lamp", "mug", "hat")
CONFIG = NextTokenConfig(
    epochs=2, questions_per_epoch=48, batch_size=8, micro_batch=8, learning_rate=3e-3, patience=9
)


class Killed(Exception):
    """Stands for the end of a process."""


class Shop:
    """A tiny catalogue, in which the picture tells the kind of product, and its encoder before training."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        rows = [
            {
                "item_id": f"i{number}",
                "title": f"{kind} number {number}",
                "category": f"Shop > {kind.title()}s",
                "attributes": {"color": ("red", "blue")[number % 2]},
                "image": picture(KINDS.index(kind), 32) if number % 5 else None,
            }
            for number in range(32)
            for kind in [KINDS[number % 4]]
        ]
        self.items: Table = open_table(write_table(folder / "items.parquet", rows), ITEMS)
        self.products = RawProducts.build(iter_items(self.items), BrokenImages())
        self.texts = [text for batch in iter_items(self.items) for one in batch for _, text in one.texts]

    def encoder(self, **options: Any) -> MllmEncoder:
        return MllmEncoder.tiny(self.texts, MllmOptions(dims=(16,), **options))

    def dialogues(self, encoder: MllmEncoder) -> Dialogues:
        qa = ProductQA.from_table(self.items, self.products.has_image())
        return Dialogues(encoder, qa, self.products, seed=0)

    def train(self, encoder: MllmEncoder, out: Path, config: NextTokenConfig = CONFIG) -> dict[str, Any]:
        with open_run(out, "pretrain", {}, {}, config.seed) as run:
            return self.train_in(run, encoder, out, config)

    def train_in(
        self, run: Run | None, encoder: MllmEncoder, out: Path, config: NextTokenConfig = CONFIG
    ) -> dict[str, Any]:
        checkpoint = partial_folder(out) / "checkpoint"
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        accelerator = Accelerator(cpu=True, kwargs_handlers=[unused])
        return pretrain_mllm(config, encoder, self.items, self.products, accelerator, run, checkpoint)[0]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("qa") / "shop")


@pytest.fixture(scope="module")
def trained(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("trained") / "run"
    encoder = shop.encoder()
    metrics = shop.train(encoder, out)
    return out, metrics | {"fingerprint": encoder.fingerprint()}


def test_training_lowers_the_loss_of_held_out_products(trained: tuple[Path, dict[str, Any]]) -> None:
    out, metrics = trained
    start, best = metrics["validation"]["start"], metrics["validation"]["best"]
    assert best["loss"] < 0.7 * start["loss"]
    assert metrics["held_out"] == 2
    # Of 48 questions, the 30 items fill three batches of 8 in one round, and two in the next.
    assert sum(metrics["questions"]["asked"].values()) == metrics["epochs"] * 40
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert lines[metrics["best_epoch"]]["held_out_loss"] == best["loss"]


def test_the_report_shows_losses_questions_and_example_answers(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, metrics = trained
    report = Report("moonrec pretrain")
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    add_next_token_sections(report, metrics, history)
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<figure>") == 2
    assert metrics["examples"]
    for example in metrics["examples"]:
        assert example["answer"] in page


def killed_training(shop: Shop, out: Path) -> None:
    """Train until the second epoch is logged and its state is not written, then die."""
    with open_run(out, "pretrain", {}, {}, CONFIG.seed) as run:
        log = run.log

        def dying(**values: Any) -> None:
            log(**values)
            if values["epoch"] > 1:
                raise Killed

        run.log = dying  # type: ignore[method-assign]
        shop.train_in(run, shop.encoder(), out)


def test_a_killed_training_goes_on_to_the_same_bits(
    shop: Shop, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, encoder = tmp_path / "run", shop.encoder()
    with pytest.raises(Killed):
        killed_training(shop, out)
    metrics = shop.train(encoder, out)
    assert encoder.fingerprint() == trained[1]["fingerprint"]
    assert metrics["questions"] == trained[1]["questions"]
    assert (out / "history.jsonl").read_text() == (trained[0] / "history.jsonl").read_text()


def test_the_best_epoch_is_kept_and_training_stops_after_it(shop: Shop, tmp_path: Path) -> None:
    destructive = replace(CONFIG, learning_rate=3.0, patience=1, epochs=9)
    encoder = shop.encoder()
    before = encoder.fingerprint()
    metrics = shop.train(encoder, tmp_path / "run", destructive)
    assert (metrics["epochs"], metrics["best_epoch"]) == (1, 0)
    assert encoder.fingerprint() == before
    assert metrics["validation"]["best"] == metrics["validation"]["start"]


@pytest.mark.parametrize("experts", [0, 4])
def test_the_gradient_does_not_depend_on_how_a_batch_is_cut(shop: Shop, experts: int) -> None:
    accelerator = Accelerator(cpu=True)
    gradients = []
    for size in (12, 5):
        encoder = shop.encoder(experts=experts)
        dialogues = shop.dialogues(encoder)
        rows = np.arange(12)
        parts = [rows[i : i + size] for i in range(0, 12, size)]
        batches = (dialogues.batch(dialogues.draw(part, 1)) for part in parts)
        step = NextTokenStep(encoder).eval()  # the experts' balance is each piece's own
        outcome = accumulate(step, batches, len(parts), accelerator)
        gradients.append((outcome, {n: p.grad for n, p in step.named_parameters() if p.grad is not None}))
    (whole, at_once), (cut, in_pieces) = gradients
    assert whole.tokens == cut.tokens
    assert whole.loss == pytest.approx(cut.loss, rel=1e-5)
    assert at_once.keys() == in_pieces.keys()
    for name, gradient in at_once.items():
        torch.testing.assert_close(in_pieces[name], gradient, rtol=1e-3, atol=1e-5)


def test_held_out_loss_is_the_mean_over_the_answers_tokens(shop: Shop) -> None:
    encoder = shop.encoder().eval()
    dialogues = shop.dialogues(encoder)
    held_out = HeldOutLoss(dialogues, np.arange(20), micro_batch=3)
    losses = held_out(NextTokenStep(encoder), Accelerator(cpu=True))
    with torch.no_grad():
        at_once = float(encoder.next_token_loss(dialogues.batch(held_out.drawn)))
    assert losses["loss"] == pytest.approx(at_once, rel=1e-5)
    assert losses.keys() == {"loss", *(f"loss_{task}" for task in held_out.tasks)}


def test_a_question_shows_the_picture_and_the_texts_of_its_view_only(shop: Shop) -> None:
    dialogues = shop.dialogues(shop.encoder())
    for one, product in zip(drawn := dialogues.draw(np.arange(1, 5), 3), dialogues.shown(drawn), strict=True):
        assert {aspect for aspect, _ in product.texts} <= one.view
        assert product.image is not None


def test_a_loss_that_is_not_finite_stops_with_the_items_and_keeps_the_checkpoint(
    shop: Shop, tmp_path: Path
) -> None:
    encoder = shop.encoder()
    endless = replace(CONFIG, learning_rate=1e30)
    with pytest.raises(UserError, match=r"not finite in epoch 1, step \d+, at the items i\d+, ") as caught:
        shop.train(encoder, tmp_path / "run", endless)
    assert "\n" not in str(caught.value)
    saved = torch.load(tmp_path / "run.partial" / "checkpoint" / "state.pt", weights_only=True)
    assert saved["state"]["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in saved["encoder"].values())


def test_the_items_whose_loss_is_not_finite_are_named(shop: Shop) -> None:
    encoder = shop.encoder()
    with torch.no_grad():
        next(encoder.model.model.visual.parameters()).fill_(torch.nan)
    config, ids = replace(CONFIG, micro_batch=1), [f"i{number}" for number in range(32)]
    rows = np.arange(4, 12)
    epochs = Epochs(config, shop.dialogues(encoder), rows, ids)
    optimizer = torch.optim.AdamW(encoder.parameters())
    with pytest.raises(UserError, match="the loss is not finite") as caught:
        epochs.train(1, NextTokenStep(encoder).train(), optimizer, [1e-3], Accelerator(cpu=True))
    assert set(re.findall(r"i\d+", str(caught.value))) == {f"i{row}" for row in rows if row % 5}


def test_experts_learn_from_questions_too(shop: Shop, tmp_path: Path) -> None:
    encoder = shop.encoder(experts=4)
    routers = [one.router.detach().clone() for one in encoder.guided_experts()]
    metrics = shop.train(encoder, tmp_path / "run", replace(CONFIG, epochs=1, questions_per_epoch=16))
    assert metrics["validation"]["best"]["loss"] < metrics["validation"]["start"]["loss"]
    for before, one in zip(routers, encoder.guided_experts(), strict=True):
        assert not torch.equal(before, one.router)


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    factors = [learning_rate_factor(done, 1000) for done in range(1000)]
    assert factors.index(max(factors)) == 29
    assert max(factors) == 1
    assert factors[:30] == sorted(factors[:30])
    assert factors[30:] == sorted(factors[30:], reverse=True)
    assert factors[-1] < 1e-4
    assert learning_rate_factor(0, 1) == 1


ONE_EPOCH = replace(CONFIG, epochs=1)


@pytest.mark.slow
def test_two_processes_train_like_one_with_the_doubled_batch(shop: Shop, tmp_path: Path) -> None:
    encoder = shop.encoder()
    metrics = shop.train(encoder, tmp_path / "one", ONE_EPOCH)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        __file__,
        str(tmp_path),
    ]
    paths = os.pathsep.join(["", *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    subprocess.run(command, check=True, timeout=300, env=environment)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for found in ranks:
        assert found["fingerprint"] == ranks[0]["fingerprint"]
        assert found["asked"] == metrics["questions"]["asked"]
        assert found["best"] == pytest.approx(metrics["validation"]["best"], rel=1e-3)
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(ranks[0]["weights"][name], value, rtol=1e-2, atol=1e-3)


def train_as_one_of_two(folder: Path) -> None:
    """What each of the two processes does: half of every batch, in pieces of which some have no picture."""
    rank = int(os.environ["RANK"])
    shop = Shop(folder / f"shop{rank}")
    encoder, out = shop.encoder(), folder / "two"
    config = replace(ONE_EPOCH, batch_size=CONFIG.batch_size // 2, micro_batch=2)
    with ExitStack() as stack:
        run = stack.enter_context(open_run(out, "pretrain", {}, {}, 0)) if rank == 0 else None
        metrics = shop.train_in(run, encoder, out, config)
        found = {
            "fingerprint": encoder.fingerprint(),
            "asked": metrics["questions"]["asked"],
            "best": metrics["validation"]["best"],
            "weights": encoder.state_dict(),
        }
        torch.save(found, folder / f"rank{rank}.pt")
    leave_process_group()


if __name__ == "__main__":
    train_as_one_of_two(Path(sys.argv[1]))
