from __future__ import annotations

import pytest
import torch
from mllm_case import FAMILIES, encoder_of, picture, product

from encoders.mllm.chat import ChatFormat
from encoders.mllm.tiny import Family, train_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_steps_of_next_token_training_teach_answers(family: Family) -> None:
    encoder = encoder_of(family, experts=4)
    products = [product(1), product(2, image=False), product(3)]
    questions = ["what is it", "which colour has the lamp", "what is it made of"]
    answers = ["a red mug", "blue", "of cotton"]
    batch = encoder.collate_dialogue(products, questions, answers)
    optimizer = torch.optim.AdamW(encoder.train().parameter_groups(4e-3))
    for _ in range(20):
        encoder.next_token_loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    images = [picture(1), None, picture(3)]
    assert encoder.generate(images, questions, max_new_tokens=12) == answers
    # Alone each prompt has other padding.
    assert encoder.generate(images, questions, max_new_tokens=12, batch_size=1) == answers
    assert encoder.training


def test_only_answers_and_their_end_are_learnt() -> None:
    encoder = encoder_of()
    dialogues = encoder.collate_dialogue(
        [product(1), product(2, text=False, image=False)],
        ["what is it", "a very long question about nothing at all"],
        ["a red mug", "steel"],
    )
    tokenizer = encoder.reader.tokenizer
    for labels, ids, answer in zip(
        dialogues.labels_BT, dialogues.batch.input_ids_BT, ["a red mug", "steel"], strict=True
    ):
        learnt = labels != -100
        assert tokenizer.decode(labels[learnt]) == answer + "<|im_end|>"
        assert torch.equal(labels[learnt], ids[learnt])
    first = tokenizer.decode(dialogues.batch.input_ids_BT[1][dialogues.batch.mask_BT[1]])
    assert first == (
        "<|im_start|>user\na very long question about nothing at all<|im_end|>\n"
        "<|im_start|>assistant\nsteel<|im_end|>"
    )


def test_the_next_token_loss_is_the_models_own() -> None:
    encoder = encoder_of()
    dialogues = encoder.collate_dialogue(
        [product(1), product(2, image=False)], ["what is it", "what"], ["a mug", "a red lamp of steel"]
    )
    batch = dialogues.batch
    with torch.no_grad():
        plain = encoder.model(
            input_ids=batch.input_ids_BT,
            attention_mask=batch.mask_BT.long(),
            pixel_values=batch.pixels_VC,
            image_grid_thw=batch.grid_I3,
            mm_token_type_ids=batch.image_BT.int(),
            labels=dialogues.labels_BT,
        ).loss
        torch.testing.assert_close(encoder.next_token_loss(dialogues), plain)


def test_an_answer_does_not_see_what_follows_it() -> None:
    encoder = encoder_of()
    short, long = (
        encoder.collate_dialogue([product(1)], ["what is it"], [answer])
        for answer in ("a", "a lamp of steel")
    )
    width = short.batch.input_ids_BT.shape[1] - 1
    with torch.no_grad():
        states = [encoder.hidden(one.batch, bidirectional=False)[:, :width] for one in (short, long)]
    torch.testing.assert_close(*states)


def test_a_checkpoints_own_chat_template_is_taken_and_an_unusable_one_is_not() -> None:
    tokenizer = train_tokenizer(["a red mug"])
    plain = tokenizer.decode(ChatFormat.of(tokenizer).with_image.before)
    assert plain == "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>".partition("<|vision")[0]
    tokenizer.chat_template = (
        "{% for m in messages %}Be kind.{% for c in m.content %}{% if c.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}"
        "{% endfor %}{% endfor %} A:"
    )
    turn = ChatFormat.of(tokenizer).with_image
    assert [tokenizer.decode(part) for part in (turn.before, turn.after)] == ["Be kind.", " A:"]
    tokenizer.chat_template = "{{ messages[0].content + 1 }}"
    assert tokenizer.decode(ChatFormat.of(tokenizer).with_image.before) == plain


def test_boxes_are_in_pixels_of_the_picture_seen_or_in_thousandths() -> None:
    encoder = encoder_of()
    assert encoder.box_scale == "pixels"
    width, height = encoder.seen_size(600, 300)
    assert (width % 28, height % 28) == (0, 0)
    assert width > height
    assert width * height <= encoder.config.max_pixels
    assert encoder_of("qwen3_vl").box_scale == "thousand"


def test_images_and_prompts_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="1 images for 2 prompts"):
        encoder_of().generate([None], ["a", "b"])
