"""Weights and optimizer states of a model whose tables are in this process, as flat tensors."""

from __future__ import annotations

from torch import Tensor, nn

from ctr.engines.adam_state import adam_tensors, restore_adam
from ctr.engines.rowwise_adagrad import RowwiseAdagrad
from ctr.engines.slice_workers import FlatAdam

_DENSE = "dense"


class LocalState:
    """The half of an engine that checkpoints ask for.

    Args:
        model: the model.
        adam: updates its dense parts.
        adagrad: updates its tables.
    """

    def __init__(self, model: nn.Module, adam: FlatAdam, adagrad: RowwiseAdagrad) -> None:
        self._trained, self._adam, self._adagrad = model, adam, adagrad

    def weights(self) -> dict[str, Tensor]:
        """This rank's part of the weights: here all of them."""
        return {name: value.detach() for name, value in self._trained.state_dict().items()}

    def restore_weights(self, tensors: dict[str, Tensor]) -> None:
        """Put `weights` back."""
        self._trained.load_state_dict(tensors)

    def optimizer_state(self) -> dict[str, Tensor]:
        """What the optimizers remember."""
        adagrad = {f"adagrad.{name}": state for name, state in self._adagrad.states.items()}
        return adagrad | adam_tensors(self._adam.optimizer, {_DENSE: self._adam.flat})

    def restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Put `optimizer_state` back."""
        restore_adam(self._adam.optimizer, {_DENSE: self._adam.flat}, tensors)
        for name, state in self._adagrad.states.items():
            state.copy_(tensors[f"adagrad.{name}"])

    def state_dict(self) -> dict[str, Tensor]:
        """The model's weights as plain CPU tensors."""
        return {name: value.detach().cpu() for name, value in self._trained.state_dict().items()}
