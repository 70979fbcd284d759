"""Feed-forward experts of equal shape that run on tokens sorted by expert, as grouped matrix products.

Every linear layer of the dense feed-forward part becomes one stack of weights, a slice per expert. The tokens
of an expert lie together in a sorted list, so that an expert costs one matrix product per layer however its
tokens were scattered, and a token that no expert takes (padding) costs nothing. Both ways, into the list and
back, are gathers, forward and backward: nothing is scattered, so the same input gives the same bits.

Shapes: N tokens, K experts of a token at most, S places in the sorted list (one per token and expert),
X experts, D width, I inputs and O outputs of a linear layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# torch's grouped kernel reads rows of whole 16 bytes: 8 numbers of bf16.
_KERNEL_ALIGNMENT = 8
_KERNEL_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Dispatch:
    """The sorted list of (token, expert) pairs, and the way back from it to the tokens.

    On a GPU the list keeps a place for every pair that could be, those without an expert last: its length is
    then known without waiting for the GPU. Elsewhere it ends with the last pair that has an expert.
    """

    slot_S: Tensor
    token_S: Tensor
    expert_S: Tensor
    place_S: Tensor
    start_N: Tensor
    count_X: Tensor
    sizes: list[int] | None

    @classmethod
    def of(cls, expert_NK: Tensor, count_X: Tensor, *, fixed_length: bool) -> Dispatch:
        """Sort the pairs by expert, the tokens of an expert in their order.

        Args:
            expert_NK: experts of each token, int64; X stands for "none".
            count_X: how many pairs each expert has.
            fixed_length: keep the places without an expert (no transfer from the GPU is waited for).
        """
        tokens, per_token = expert_NK.shape
        slot_S = expert_NK.flatten().argsort(stable=True)
        place = torch.empty_like(slot_S)
        place[slot_S] = torch.arange(len(slot_S), device=slot_S.device)
        if fixed_length:
            start_N, sizes = torch.arange(tokens, device=slot_S.device) * per_token, None
        else:
            taken_NK = expert_NK < len(count_X)
            taken_N = taken_NK.sum(1)
            start_N, sizes = taken_N.cumsum(0) - taken_N, count_X.tolist()
            slot_S, place = slot_S[: sum(sizes)], place[taken_NK.flatten()]
        expert_S = expert_NK.flatten().index_select(0, slot_S)
        return cls(slot_S, slot_S // per_token, expert_S, place, start_N, count_X, sizes)

    def gather(self, x_ND: Tensor) -> Tensor:
        """The tokens (N, D) in the order of the list, (S, D)."""
        x_SD = _Gather.apply(x_ND, self.token_S, self.place_S, self.start_N)
        return self.blank_rest(x_SD)

    def combine(self, y_SD: Tensor, gate_NK: Tensor) -> Tensor:
        """The sum over each token's experts of their outputs (S, D), weighted by its gates: (N, D)."""
        gate_S = gate_NK.flatten().index_select(0, self.slot_S).to(y_SD.dtype)
        return _Combine.apply(self.blank_rest(y_SD), gate_S, self.token_S, self.place_S, self.start_N)

    def blank_rest(self, x_SD: Tensor) -> Tensor:
        """Zero the places without an expert, and their gradients: the grouped kernel leaves there whatever
        the memory held, in the forward pass and in the backward pass."""
        if self.sizes is not None:
            return x_SD
        return x_SD.masked_fill((self.expert_S == len(self.count_X))[:, None], 0)


def _bag_sums(y_SD: Tensor, place_S: Tensor, start_N: Tensor, weight_S: Tensor | None) -> Tensor:
    """Per token, the (weighted) sum of its rows of the list; one pass over the memory, sums in float32."""
    if not len(place_S):
        return y_SD.new_zeros(len(start_N), y_SD.shape[1])
    return functional.embedding_bag(place_S, y_SD, start_N, mode="sum", per_sample_weights=weight_S)


class _Gather(torch.autograd.Function):
    """Rows of tokens into the list. Its gradient is a sum of gathered rows, where that of `index_select`
    would be a scattered addition."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, token_S: Tensor, place_S: Tensor, start_N: Tensor) -> Tensor:
        ctx.save_for_backward(place_S, start_N)
        return x_ND.index_select(0, token_S)

    @staticmethod
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor, None, None, None]:
        place_S, start_N = ctx.saved_tensors
        return _bag_sums(grad_SD.contiguous(), place_S, start_N, None), None, None, None


class _Combine(torch.autograd.Function):
    """The gate-weighted sum over each token's places in the list."""

    @staticmethod
    def forward(
        ctx: Any, y_SD: Tensor, gate_S: Tensor, token_S: Tensor, place_S: Tensor, start_N: Tensor
    ) -> Tensor:
        ctx.save_for_backward(y_SD, gate_S, token_S)
        return _bag_sums(y_SD, place_S, start_N, gate_S.index_select(0, place_S))

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        y_SD, gate_S, token_S = ctx.saved_tensors
        grad_SD = grad_ND.index_select(0, token_S)
        return grad_SD * gate_S[:, None], (grad_SD * y_SD).sum(1), None, None, None


class StackedLinear(nn.Module):
    """X linear layers of one shape: `weight` (X, O, I) and `bias` (X, O) or None; each starts as a copy of
    `linear`, on its device, in its precision, and trained only if it is."""

    def __init__(self, linear: nn.Linear, experts: int) -> None:
        super().__init__()
        self.weight = _copies(linear.weight, experts)
        bias: Tensor | None = linear.bias
        self.bias = None if bias is None else _copies(bias, experts)

    def slices(self) -> list[tuple[Tensor, Tensor | None]]:
        """Weight and bias of every expert. Taken apart once per pass, so that the gradients are put together
        once: indexing expert by expert would add up X gradients of the whole stack."""
        weights = self.weight.unbind(0)
        biases = [None] * len(weights) if self.bias is None else self.bias.unbind(0)
        return list(zip(weights, biases, strict=True))


def _copies(parameter: Tensor, count: int) -> nn.Parameter:
    stacked = parameter.detach().expand(count, *parameter.shape).clone()
    return nn.Parameter(stacked, requires_grad=parameter.requires_grad)


Linear = Callable[[StackedLinear, Tensor], Tensor]


class GroupedExperts(nn.Module, ABC):
    """X feed-forward parts of one shape. A subclass says what one of them computes."""

    def forward(self, x_ND: Tensor, expert_NK: Tensor, gate_NK: Tensor, count_X: Tensor) -> Tensor:
        """The gate-weighted sum of the outputs of each token's experts.

        Args:
            x_ND: tokens.
            expert_NK: experts of each token, int64; X stands for "none", and a token with none yields zeros.
            gate_NK: weights of the experts; 0 where there is none.
            count_X: how many (token, expert) pairs each expert has.
        """
        return self.run(x_ND, expert_NK, gate_NK, count_X, kernel=self._kernel_fits(x_ND))

    def run(
        self, x_ND: Tensor, expert_NK: Tensor, gate_NK: Tensor, count_X: Tensor, *, kernel: bool
    ) -> Tensor:
        """`forward`, by torch's grouped kernel or by one matrix product per expert, as `kernel` says."""
        dispatch = Dispatch.of(expert_NK, count_X, fixed_length=kernel)
        x_SD = dispatch.gather(x_ND)
        return dispatch.combine(
            self._by_kernel(x_SD, dispatch) if kernel else self._by_slices(x_SD, dispatch), gate_NK
        )

    @abstractmethod
    def feed_forward(self, x_SD: Tensor, linear: Linear) -> Tensor:
        """What one expert computes; `linear` applies one of the stacked layers."""

    def _by_slices(self, x_SD: Tensor, dispatch: Dispatch) -> Tensor:
        slices = {layer: layer.slices() for layer in self._layers()}

        def of_expert(expert: int) -> Linear:
            return lambda layer, x: functional.linear(x, *slices[layer][expert])

        assert dispatch.sizes is not None
        return torch.cat(
            [self.feed_forward(x, of_expert(n)) for n, x in enumerate(x_SD.split(dispatch.sizes))]
        )

    def _by_kernel(self, x_SD: Tensor, dispatch: Dispatch) -> Tensor:
        end_X = dispatch.count_X.cumsum(0, dtype=torch.int32)
        expert_X = torch.arange(len(end_X), device=end_X.device)
        # A product instead of `bias[expert]`, whose gradient would be a scattered addition.
        chosen_SX = (dispatch.expert_S[:, None] == expert_X).to(x_SD.dtype)

        def linear(layer: StackedLinear, x: Tensor) -> Tensor:
            weight_XIO = layer.weight.to(x.dtype).transpose(-2, -1)
            y = functional.grouped_mm(x, weight_XIO, offs=end_X)
            if layer.bias is None:
                return y
            return y + dispatch.blank_rest(chosen_SX @ layer.bias.to(x.dtype))

        return self.feed_forward(x_SD, linear)

    def _kernel_fits(self, x_ND: Tensor) -> bool:
        return (
            x_ND.is_cuda
            and x_ND.dtype == torch.bfloat16
            and torch.cuda.get_device_capability(x_ND.device) >= _KERNEL_CAPABILITY
            and all(
                size % _KERNEL_ALIGNMENT == 0 for layer in self._layers() for size in layer.weight.shape[1:]
            )
        )

    def _layers(self) -> list[StackedLinear]:
        return [layer for layer in self.children() if isinstance(layer, StackedLinear)]


class GeluExperts(GroupedExperts):
    """Experts of the form down(gelu(up(x)))."""

    def __init__(self, dense: nn.Module, experts: int) -> None:
        super().__init__()
        self.up = StackedLinear(_linear(dense, "up"), experts)
        self.down = StackedLinear(_linear(dense, "down"), experts)

    def feed_forward(self, x_SD: Tensor, linear: Linear) -> Tensor:
        """See the base class."""
        return linear(self.down, functional.gelu(linear(self.up, x_SD)))


class GatedExperts(GroupedExperts):
    """Experts of the form down(act(gate(x)) · up(x)), the SwiGLU of most language models."""

    def __init__(self, dense: nn.Module, experts: int) -> None:
        super().__init__()
        self.gate_proj = StackedLinear(_linear(dense, "gate_proj"), experts)
        self.up_proj = StackedLinear(_linear(dense, "up_proj"), experts)
        self.down_proj = StackedLinear(_linear(dense, "down_proj"), experts)
        self.act_fn = dense.get_submodule("act_fn")

    def feed_forward(self, x_SD: Tensor, linear: Linear) -> Tensor:
        """See the base class."""
        hidden = self.act_fn(linear(self.gate_proj, x_SD)) * linear(self.up_proj, x_SD)
        return linear(self.down_proj, hidden)


class ActivatedExperts(GroupedExperts):
    """Experts of the form fc2(act(fc1(x))), those of the towers of CLIP kind."""

    def __init__(self, dense: nn.Module, experts: int) -> None:
        super().__init__()
        self.fc1 = StackedLinear(_linear(dense, "fc1"), experts)
        self.fc2 = StackedLinear(_linear(dense, "fc2"), experts)
        self.activation_fn = dense.get_submodule("activation_fn")

    def feed_forward(self, x_SD: Tensor, linear: Linear) -> Tensor:
        """See the base class."""
        return linear(self.fc2, self.activation_fn(linear(self.fc1, x_SD)))


_KINDS: dict[frozenset[str], type[GeluExperts] | type[ActivatedExperts] | type[GatedExperts]] = {
    frozenset({"up", "down"}): GeluExperts,
    frozenset({"fc1", "activation_fn", "fc2"}): ActivatedExperts,
    frozenset({"gate_proj", "up_proj", "down_proj", "act_fn"}): GatedExperts,
}


def copy_experts(dense: nn.Module, experts: int) -> GroupedExperts:
    """`experts` copies of a dense feed-forward part, recognised by the names of its layers: `up` and `down`
    with an exact gelu between them, `fc1`, `activation_fn` and `fc2`, or `gate_proj`, `up_proj`, `down_proj`
    and `act_fn`.

    Raises:
        TypeError: `dense` is of none of these forms.
    """
    kind = _KINDS.get(frozenset(name for name, _ in dense.named_children()))
    if kind is None:
        known = " or ".join("/".join(sorted(names)) for names in _KINDS)
        raise TypeError(f"cannot make experts of {type(dense).__name__}: its layers are not {known}")
    return kind(dense, experts)


def _linear(dense: nn.Module, name: str) -> nn.Linear:
    layer = dense.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"cannot make experts of {type(dense).__name__}: {name} is no plain Linear layer")
    return layer
