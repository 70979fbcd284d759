"""The loop that every contrastive stage runs: rounds of epochs of batches, with early stopping.

Which pairs stand in which batch and what of them is hidden is decided by seed, round, epoch and step alone:
a run that was killed goes on from its last epoch to the same weights.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from encoders.encoder import Encoder
from encoders.filtered_pairs import write_filtered
from encoders.launch import PlacedEncoder
from encoders.objective.encode_step import EncodeStep
from encoders.objective.joint_objective import JointObjective
from encoders.objective.negative_queue import NegativeQueue
from encoders.objective.objective import Objective
from encoders.round_loop import RoundLoop
from encoders.training_data import Products
from encoders.training_round import Round
from encoders.training_state import Checkpoint, RoundState, Trained, put_weights
from moonrec.runs import Run

EPOCHS = "epochs"
_LOSS_RATE = 10
_BETAS = (0.9, 0.98)


class Trainer:
    """Trains an encoder through rounds.

    Args:
        encoder: changed in place.
        products: what is trained on.
        accelerator: the processes.
        run: where the main process logs; None elsewhere.
        checkpoint: where training notes what it needs to go on.
        chunk_size: products that go through the encoder at once; 0 for a whole batch (gradient caching).
        fsdp: whether weights are sharded over the processes.
        seed: of everything random.
        keep_epochs: whether the run folder keeps the encoder of every epoch, as `epochs/ROUND-EPOCH`.
    """

    def __init__(
        self,
        encoder: Encoder,
        products: Products,
        accelerator: Accelerator,
        run: Run | None,
        checkpoint: Checkpoint,
        *,
        chunk_size: int,
        fsdp: bool,
        seed: int,
        keep_epochs: bool = False,
    ) -> None:
        self._placed = PlacedEncoder(encoder, accelerator, fsdp=fsdp)
        self.encoder = self._placed.encoder
        self.products = products
        self.accelerator = accelerator
        self.sharded = fsdp
        self._run = run
        self._checkpoint = checkpoint
        self.chunk_size = chunk_size
        self.seed = seed
        self.device = accelerator.device
        self._keep_epochs = keep_epochs

    def train(self, rounds: Sequence[Callable[[], Round]]) -> list[dict[str, Any]]:
        """Train through all rounds; each is made when it begins, from the encoder as it is then.

        Returns:
            The metrics of every round. The encoder ends with the best weights of the last one.

        Raises:
            UserError: the loss is not finite, or there are fewer pairs than processes.
        """
        begun, first, done = self._checkpoint.round(), 0, []
        # Before the main process writes there, everybody has looked.
        self.accelerator.wait_for_everyone()
        if begun is not None:
            first, done = begun["round"], begun["done"]
            put_weights(self.encoder, begun["weights"])
        for number in range(first, len(rounds)):
            if begun is None or number > first:
                if begun is None and number == 0:
                    self._rewind(0)
                self._checkpoint.begin_round(number, done, self.encoder, self._lines())
            done = [*done, self._train_round(number, rounds[number]())]
        return done

    def whole_encoder(self) -> Encoder | None:
        """The encoder in evaluation mode, whole, on the main process; all processes call it."""
        return self._placed.whole()

    def _train_round(self, number: int, round_: Round) -> dict[str, Any]:
        objective = self._objective(round_).to(self.device)
        teacher = None
        if round_.objective.keep_weight:
            teacher = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        trained = Trained(
            encoder=self.encoder,
            objective=objective,
            optimizer=_optimizer(self.encoder.parameter_groups(round_.learning_rate)),
            objective_optimizer=_objective_optimizer(objective, round_.learning_rate),
            queue=NegativeQueue(round_.objective.queue, round_.objective.dims[0], self.device),
        )
        step = EncodeStep(self.encoder, with_gates=_weighs_modalities(round_, self.encoder)).train()
        loop = RoundLoop(self, round_, trained, self._placed.wrap(step), teacher)
        state = self._start_or_resume(number, round_, trained)
        loop.expert_use.counts = state.experts
        while state.epoch < round_.epochs and state.stale < round_.patience:
            state.epoch += 1
            # Dropout must be the same after a resume.
            torch.manual_seed((self.seed * 101 + number) * 100_003 + state.epoch)
            begun = time.perf_counter()
            figures = loop.epoch(state.epoch)
            state.seconds += time.perf_counter() - begun
            state.pairs_seen += figures.pop("pairs")
            recall = self._validate(round_)
            state.experts = loop.expert_use.counts
            state.record(recall, self.encoder)
            if round_.joint is not None and round_.joint.config.filter:
                state.filtered = self._write_filtered(loop, round_, state.epoch)
            if self._run is not None:
                self._run.log(round=round_.name, epoch=state.epoch, **figures, **recall)
            self._keep(round_, state.epoch)
            self._checkpoint.save(number, state, trained, self._lines())
        put_weights(self.encoder, state.best)
        return {
            "name": round_.name,
            "epochs": state.epoch,
            "best_epoch": state.best_epoch,
            "validation": {"start": state.start_recall, "best": state.best_recall},
            "pairs": {
                s.name: {
                    "training": len(s.training),
                    "validation": len(s.validation),
                    "undated": s.undated,
                    "unknown": s.unknown.count,
                    "examples": list(s.unknown.examples),
                }
                for s in round_.sources
            },
            "train": {
                "seconds": state.seconds,
                "pairs_per_second": state.pairs_seen / max(state.seconds, 1e-9),
            },
            "experts": loop.expert_use.shares(),
            **round_.facts,
            **({"filtered": state.filtered} if state.filtered else {}),
        }

    def _objective(self, round_: Round) -> Objective | JointObjective:
        if round_.joint is None:
            return Objective(round_.objective)
        layers = self.encoder.guided_experts()
        routed = len(layers[0].router) if layers else 0
        return JointObjective(round_.objective, round_.joint.config, experts=routed)

    def note_broken_batch(self, names: list[str]) -> Path:
        """Write down the products of a batch that could not be learnt from; returns where."""
        return self._checkpoint.note(f"broken_batch_{self.accelerator.process_index}.txt", names)

    def _write_filtered(self, loop: RoundLoop, round_: Round, epoch: int) -> dict[str, int]:
        """Write down whom the filter weighted down in an epoch; returns how many that were."""
        weights = loop.filtered.take(self.device)
        if self._run is not None:
            write_filtered(self._run.path, weights, round_.sources, self.products, epoch)
        down = int((weights[:, 2] < 1).sum())
        return {"epoch": epoch, "pairs": len(weights), "down_weighted": down}

    def _start_or_resume(self, number: int, round_: Round, trained: Trained) -> RoundState:
        saved = self._checkpoint.load(number)
        self.accelerator.wait_for_everyone()
        if saved is not None:
            trained.restore(saved["trained"])
            self._rewind(saved["lines"])
            return RoundState(**saved["state"])
        begun = self._checkpoint.round()
        self._rewind(self._lines() if begun is None else begun["lines"])
        state = RoundState.start(self._validate(round_), self.encoder)
        if self._run is not None:
            self._run.log(round=round_.name, epoch=0, loss=None, **state.start_recall)
        if number == 0:
            # Later rounds start from an epoch that is kept already.
            self._keep(round_, 0)
        self._checkpoint.save(number, state, trained, self._lines())
        return state

    def _keep(self, round_: Round, epoch: int) -> None:
        """Save the encoder as it is now, for who asks how it came to be; all processes call it."""
        if not self._keep_epochs:
            return
        training = self.encoder.training
        whole = self.whole_encoder()
        if self._run is not None and whole is not None:
            name = f"{round_.name.replace('round', '').strip()}-{epoch:02d}"
            whole.save_pretrained(self._run.path / EPOCHS / name / "model")
        self.encoder.train(training)

    def _validate(self, round_: Round) -> dict[str, float]:
        """Validation recall, as the main process found it: all of them stop at the same epoch."""
        recall = [round_.validate(self.encoder, self.products.table, self.device)]
        return broadcast_object_list(recall)[0]

    def _rewind(self, lines: int) -> None:
        if self._run is not None:
            self._run.rewind_history(lines)

    def _lines(self) -> int:
        return 0 if self._run is None else len(self._run.history)


def _weighs_modalities(round_: Round, encoder: Encoder) -> bool:
    """Whether the loss looks at the gates of the encoder's experts."""
    return round_.joint is not None and round_.joint.config.learned_weights and bool(encoder.guided_experts())


def _optimizer(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    used = [group for group in groups if group["params"]]
    return torch.optim.AdamW(used, betas=_BETAS, weight_decay=0.01)


def _objective_optimizer(
    objective: Objective | JointObjective, learning_rate: float
) -> torch.optim.AdamW | None:
    """For the temperature, which circle loss does not have, and the matrix of experts and objectives."""
    loss, weights = list(objective.loss.parameters()), getattr(objective, "weights", None)
    groups: list[dict[str, Any]] = [{"params": loss, "lr": learning_rate * _LOSS_RATE}] if loss else []
    if weights is not None:
        # At ten times the rate the weights run to the modality with the smallest loss (measured).
        groups.append({"params": list(weights.parameters()), "lr": learning_rate})
    return torch.optim.AdamW(groups, betas=_BETAS, weight_decay=0.0) if groups else None
