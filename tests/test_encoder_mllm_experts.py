from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mllm_case import FAMILIES, encoder_of, product

from encoders.guided_moe import balance_loss
from encoders.mllm.encoder import MllmEncoder
from encoders.mllm.guided_layers import AspectExperts
from encoders.mllm.tiny import Family
from encoders.products import Aspect
from moonrec.errors import UserError


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("every", "guided"), [(1, True), (2, True), (1, False)])
def test_the_first_forward_with_experts_is_that_of_the_dense_model(
    family: Family, every: int, guided: bool
) -> None:
    encoder = encoder_of(family)
    batch = encoder.reader.products([product(1, region=True), product(2), product(3, image=False)])
    with torch.no_grad():
        dense = encoder(batch)
        encoder.upcycle(4, 2, every, guided=guided)
        assert len(encoder.guided_experts()) == 4 // every
        torch.testing.assert_close(encoder(batch), dense, atol=1e-5, rtol=0)
    config = encoder.config
    assert (config.experts, config.expert_every, config.guided) == (4, every, guided)


def test_only_tokens_of_their_aspect_go_through_the_forced_experts() -> None:
    encoder = encoder_of(experts=4)
    full = product(1)
    plain = replace(full, texts=(full.texts[0], full.texts[3]))
    with torch.no_grad():
        before = encoder(encoder.reader.products([full, plain]))
        for moe in encoder.guided_experts():
            moe.get_parameter("experts.down_proj.weight")[:2] = 0
        after = encoder(encoder.reader.products([full, plain]))
    assert (after[0] - before[0]).abs().max() > 1e-3
    torch.testing.assert_close(after[1], before[1])


def test_statistics_count_the_tokens_of_each_aspect_and_no_padding() -> None:
    encoder = encoder_of(experts=4)
    batch = encoder.reader.products([product(1), product(2, image=False)])
    with torch.no_grad():
        encoder(batch)
    for moe in encoder.guided_experts():
        assert moe.statistics is not None
        counts_AX = moe.statistics.aspect_counts_AX
        for aspect in Aspect:
            tokens = int((batch.aspect_BT[batch.mask_BT] == aspect).sum())
            choices = 1 if aspect in (Aspect.CATEGORY, Aspect.ATTRIBUTES) else 2
            assert int(counts_AX[aspect].sum()) == choices * tokens


def gradients(encoder: MllmEncoder) -> dict[str, torch.Tensor]:
    """After two forwards of other batches, of which the first has categories and the second none."""
    reader = encoder.reader
    first = reader.products([product(1, region=True), product(2)])
    second = reader.products([product(3)], frozenset({Aspect.IMAGE, Aspect.TITLE}))
    answered = encoder.collate_dialogue([product(4)], ["what is it"], ["a red mug"])
    encoder.train().zero_grad()
    scores = encoder(first) @ encoder(second).T
    statistics = [one.statistics for one in encoder.guided_experts() if one.statistics]
    assert all(len(one.gate_BR) == len(second) for one in statistics)
    gates = sum((one.gate_BR * torch.arange(one.gate_BR.shape[1])).sum() for one in statistics)
    routed = 0.1 * balance_loss(statistics) + gates
    (scores.square().sum() + routed + encoder.next_token_loss(answered)).backward()
    return {name: one.grad.clone() for name, one in encoder.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_gives_the_same_gradients(family: Family) -> None:
    plain = gradients(encoder_of(family, experts=4))
    recomputed = gradients(encoder_of(family, experts=4, gradient_checkpointing=True))
    assert plain.keys() == recomputed.keys()
    assert any("router" in name for name in plain)
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def trained_names(encoder: MllmEncoder) -> set[str]:
    """Names of the weights that a step of training moves."""
    before = {name: one.detach().clone() for name, one in encoder.named_parameters()}
    batch = encoder.reader.products([product(1), product(2, region=True)])
    groups = encoder.train().parameter_groups(1e-2)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    # Adapters start with a zero factor, behind which the other one has no gradient yet.
    for _ in range(2):
        (encoder(batch) * torch.linspace(-1, 1, 32)).sum().backward()
        optimizer.step()
    return {name for name, one in encoder.named_parameters() if not torch.equal(one, before[name])}


@pytest.mark.parametrize("experts", [0, 4])
def test_adapters_train_and_what_they_adapt_does_not(experts: int) -> None:
    encoder = encoder_of(experts=experts, expert_every=2, lora_rank=2)
    trained = trained_names(encoder)
    known = ("lora_", "out.", ".experts.")
    assert all(any(part in name for part in known) for name in trained)
    for part in ("q_proj.lora_A", "v_proj.lora_B", "layers.0.mlp.down_proj.lora_B", "out.weight"):
        assert any(part in name for name in trained)
    assert any(".experts." in name for name in trained) == bool(experts)
    assert not any("visual" in name for name in trained)


def test_adapters_of_a_model_in_bf16_learn_in_float32() -> None:
    encoder = encoder_of(experts=4, lora_rank=2, dtype="bfloat16")
    precision = {name: one.dtype for name, one in encoder.named_parameters()}
    assert {one for name, one in precision.items() if "lora_" in name} == {torch.float32}
    assert {one for name, one in precision.items() if "embed" in name} == {torch.bfloat16}
    assert any("q_proj.lora_B" in name for name in trained_names(encoder))


def test_without_adapters_every_part_learns() -> None:
    encoder = encoder_of(experts=4)
    trained = trained_names(encoder)
    for part in ("visual.blocks.0", "merger", "embed_tokens", "self_attn.q_proj", "router", "out.bias"):
        assert any(part in name for name in trained)


def test_what_is_pretrained_learns_slower_than_what_is_new() -> None:
    encoder = encoder_of(experts=4)
    assert [group["lr"] for group in encoder.parameter_groups(1.0)] == [1.0]
    encoder.config = replace(encoder.config, from_scratch=False)
    fresh, started = encoder.parameter_groups(1.0)
    assert (fresh["lr"], started["lr"]) == (1.0, 0.1)
    assert {id(one) for one in fresh["params"]} == {id(one.router) for one in encoder.guided_experts()}
    assert len(fresh["params"]) + len(started["params"]) == len(list(encoder.parameters()))


def test_generation_needs_no_aspects() -> None:
    encoder = encoder_of(experts=4)
    encoder.pooled(encoder.reader.products([product(1)]))
    assert any(isinstance(one, AspectExperts) for one in encoder.modules())
    assert len(encoder.generate([None], ["what is it"], max_new_tokens=3)) == 1


def test_experts_are_not_made_twice_nor_out_of_adapters() -> None:
    with pytest.raises(UserError, match="dense encoder"):
        encoder_of(experts=4).upcycle(4, 2)
    with pytest.raises(UserError, match="dense encoder"):
        encoder_of(lora_rank=2).upcycle(4, 2)
    with pytest.raises(UserError, match="already"):
        encoder_of(lora_rank=2).adapt(4)
