"""A generative multimodal language model as a product encoder (MOON, https://arxiv.org/abs/2508.11999).

Picture, core region and words go through one language model whose attention looks in both directions, and the
representation is the mean over all tokens of its last layer, projected and scaled to unit length. The same
weights still generate, with causal attention: that is how they are pretrained on questions about products and
how they find core regions. Feed-forward parts may be guided experts.

Shapes: B products, T tokens, D trunk width, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from encoders.encoder import (
    Encoder,
    Preparer,
    load_weights,
    principal_directions,
    read_config,
    save_weights,
)
from encoders.fusion import masked_mean
from encoders.guided_moe import GuidedMoE
from encoders.mllm.batch import DialogueBatch, MllmBatch
from encoders.mllm.checkpoint import (
    BOX_SCALES,
    Checkpoint,
    language_model_of,
    load_checkpoint,
    rebuild_checkpoint,
    save_backbone,
)
from encoders.mllm.generate import generate
from encoders.mllm.guided_layers import Guide, add_experts, attention_direction, guide_layers
from encoders.mllm.lora import add_adapters, is_adapter
from encoders.mllm.options import MllmConfig, MllmOptions, MllmRuntime
from encoders.mllm.reader import Reader
from encoders.mllm.tiny import MAX_PIXELS, Family, tiny_checkpoint
from encoders.products import Product
from encoders.raw_products import RawPreparer
from moonrec.errors import UserError

BACKBONE_FOLDER = "backbone"
_CALIBRATION_ROWS = 2_000
_CALIBRATION_BATCH = 32
# Of what is pretrained, and of the projection, which starts fitted: Adam moves every weight by about the rate
# whatever its size, and at the full rate wipes such a start out.
_PRETRAINED_RATE = 0.1


class MllmEncoder(Encoder):
    """Products to unit vectors through a Qwen-VL style model; make one with `from_checkpoint` or `tiny`.

    Under DDP some weights get no gradient in some steps (a batch without pictures leaves the vision tower
    out, and the language head is only for generation): it has to look for unused parameters.
    """

    keep_weight = 0.0

    def __init__(self, checkpoint: Checkpoint, config: MllmConfig, runtime: MllmRuntime) -> None:
        super().__init__()
        self.model = checkpoint.model
        self.config = replace(config, experts=0, lora_rank=0)
        self._width = int(self.model.config.text_config.hidden_size)
        self.out = nn.Linear(self._width, config.dim)
        nn.init.zeros_(self.out.bias)
        guide_layers(language_model_of(self.model))
        if config.experts:
            self.upcycle(config.experts, config.experts_per_token, config.expert_every, guided=config.guided)
        if config.lora_rank:
            self.adapt(config.lora_rank)
        self.reader = Reader(
            tokenizer=checkpoint.tokenizer,
            image_processor=checkpoint.image_processor,
            model_config=self.model.config,
            rope_index=self.model.model.get_rope_index,
            config=config,
        )
        if runtime.gradient_checkpointing:
            self.enable_gradient_checkpointing()

    @classmethod
    def from_checkpoint(cls, name_or_path: str, options: MllmOptions | None = None) -> MllmEncoder:
        """An encoder over a checkpoint of transformers, from a folder or the hub; it wants `calibrate`.

        Raises:
            UserError: the checkpoint or the options cannot be used.
        """
        options = options or MllmOptions()
        _check(options)
        checkpoint = load_checkpoint(name_or_path, options.runtime)
        return cls(checkpoint, replace(options.config, from_scratch=False), options.runtime).eval()

    @classmethod
    def tiny(
        cls,
        texts: Iterable[str],
        options: MllmOptions | None = None,
        family: Family = "qwen2_5_vl",
        seed: int = 0,
    ) -> MllmEncoder:
        """An untrained encoder of a few million weights, with a tokenizer learnt from `texts`.

        Pictures are shrunk to 112 x 112 pixels at most, whatever the options say.
        """
        options = options or MllmOptions()
        _check(options)
        checkpoint = tiny_checkpoint(texts, family, options.runtime, seed)
        config = replace(options.config, from_scratch=True, max_pixels=min(options.max_pixels, MAX_PIXELS))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(checkpoint, config, options.runtime).eval()

    def forward(self, batch: MllmBatch) -> Tensor:
        """A batch of products to unit vectors (B, E); zeros where there is nothing to encode."""
        pooled_BD = self.pooled(batch)
        with torch.autocast(pooled_BD.device.type, enabled=False):
            vectors_BE = nn.functional.normalize(self.out(pooled_BD.to(self.out.weight.dtype)), dim=1)
        return vectors_BE.masked_fill(batch.is_empty_B()[:, None], 0)

    def pooled(self, batch: MllmBatch) -> Tensor:
        """The mean over all last-layer tokens (B, D), at least float32: the representation of the paper."""
        hidden_BTD = self.hidden(batch, bidirectional=True)
        hidden_BTD = hidden_BTD.to(torch.promote_types(hidden_BTD.dtype, torch.float32))
        return masked_mean(hidden_BTD, batch.mask_BT)

    def hidden(self, batch: MllmBatch, *, bidirectional: bool) -> Tensor:
        """Last-layer hidden states (B, T, D), after the final norm."""
        seen = None
        if batch.pixels_VC is not None:
            # Apart from the language model, which alone is to be told of aspects and direction.
            seen = {
                "image": self.model.model.get_image_features(batch.pixels_VC, batch.grid_I3, return_dict=True)
            }
        with attention_direction(self.model.config.text_config, bidirectional=bidirectional):
            return self.model.model(
                input_ids=batch.input_ids_BT,
                attention_mask=batch.attended_BT().long(),
                position_ids=batch.position_ids_3BT,
                mm_encoder_outputs=seen,
                use_cache=False,
                guide=Guide(batch.aspect_BT, batch.mask_BT, bidirectional),
            ).last_hidden_state

    def next_token_loss(self, dialogues: DialogueBatch) -> Tensor:
        """Mean cross entropy of the answers' tokens under causal attention (stage 1).

        Raises:
            ValueError: there is no token to learn.
        """
        hidden_BTD = self.hidden(dialogues.batch, bidirectional=False)
        next_BT = dialogues.labels_BT[:, 1:]
        learnt_BT = next_BT != -100
        if not bool(learnt_BT.any()):
            raise ValueError("no answer in the batch has a token")
        # The vocabulary is wide: scores only where something is learnt.
        scores = self.model.lm_head(hidden_BTD[:, :-1][learnt_BT])
        return nn.functional.cross_entropy(
            scores.to(torch.promote_types(scores.dtype, torch.float32)), next_BT[learnt_BT]
        )

    def collate_dialogue(
        self, products: list[Product], questions: Sequence[str], answers: Sequence[str]
    ) -> DialogueBatch:
        """A batch for `next_token_loss`: one question and answer about each product's picture."""
        return self.reader.dialogues(products, questions, answers)

    def generate(
        self,
        images: Sequence[Image.Image | None],
        prompts: Sequence[str],
        max_new_tokens: int = 64,
        batch_size: int = 16,
    ) -> list[str]:
        """Answers to prompts, each about one picture or none, always the likeliest next token."""
        return generate(self, images, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)

    @property
    def box_scale(self) -> str:
        """In which coordinates the model names boxes: `pixels` of `seen_size`, or `thousand`ths."""
        return BOX_SCALES[self.model.config.model_type]

    def seen_size(self, width: int, height: int) -> tuple[int, int]:
        """The width and height to which a picture of this size is shrunk before the model sees it."""
        return self.reader.seen_size(width, height)

    @torch.no_grad()
    def calibrate(self, table: Any, rows: np.ndarray | None = None, seed: int = 0) -> None:
        """Start the projection at the principal directions of what up to 2,000 products pool to.

        Args:
            table: a `ProductTable` of this encoder's preparer.
            rows: those that may be looked at; default: all.
            seed: decides which 2,000.
        """
        rows = np.arange(len(table)) if rows is None else rows
        rows = rows[(table.has_image() | table.has_text())[rows]]
        if len(rows) > _CALIBRATION_ROWS:
            rows = np.sort(np.random.default_rng(seed).choice(rows, _CALIBRATION_ROWS, replace=False))
        if not len(rows):
            return
        training, device = self.training, self.out.weight.device
        self.eval()
        parts = np.array_split(rows, -(-len(rows) // _CALIBRATION_BATCH))
        pooled = [self.pooled(table.gather(part).to(device)).float() for part in parts]
        self.train(training)
        self.out.weight.copy_(principal_directions(torch.cat(pooled), self.config.dim)[0])
        self.out.bias.zero_()

    def upcycle(self, experts: int, experts_per_token: int, every: int = 1, *, guided: bool = True) -> None:
        """Turn dense feed-forward parts into experts that compute the same.

        Raises:
            UserError: there are experts or adapters already, or the numbers do not fit each other.
        """
        if self.config.experts or self.config.lora_rank:
            raise UserError("experts can be made only of a dense encoder without adapters")
        config = replace(
            self.config,
            experts=experts,
            experts_per_token=experts_per_token,
            expert_every=every,
            guided=guided,
        )
        config.check("experts")
        add_experts(
            language_model_of(self.model),
            self._width,
            experts=experts,
            experts_per_token=experts_per_token,
            every=every,
            guided=guided,
        )
        self.config = config

    def adapt(self, rank: int) -> None:
        """Freeze the model and train low-rank adapters in its place; experts and `out` stay trainable.

        What is trained is float32, in whatever precision the frozen weights are.

        Raises:
            UserError: there are adapters already, or peft is not installed.
        """
        if self.config.lora_rank:
            raise UserError(f"the encoder has adapters of rank {self.config.lora_rank} already")
        config = replace(self.config, lora_rank=rank)
        config.check("adapters")
        add_adapters(self.model, rank)
        self.config = config

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each layer in the backward pass from now on."""
        self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def preparer(self, cache: Path | None, device: torch.device) -> Preparer:
        """Batches are read from the raw products; there are no features to cache, and none to compute."""
        del cache, device
        return RawPreparer(self.reader.products, image_tokens=self.reader.image_tokens)

    def training_preparer(self, cache: Path | None, device: torch.device, folder: Path) -> Preparer:
        """The same, with the spool of undecoded products in `folder`."""
        del cache, device
        return RawPreparer(self.reader.products, image_tokens=self.reader.image_tokens, folder=folder)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """What starts random at the full rate; what is pretrained, and `out`, at a tenth of it.

        Without pretraining (`config.from_scratch`) everything learns at the full rate.
        """
        routers = {id(one.router) for one in self.modules() if isinstance(one, GuidedMoE)}
        fresh: list[nn.Parameter] = []
        started: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            new = self.config.from_scratch or is_adapter(name) or id(parameter) in routers
            (fresh if new else started).append(parameter)
        rates = ((fresh, learning_rate), (started, learning_rate * _PRETRAINED_RATE))
        return [{"params": group, "lr": rate} for group, rate in rates if group]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, `model.safetensors` and `backbone/`, from which all is rebuilt offline."""
        save_weights(self, Path(folder))
        checkpoint = Checkpoint(self.model, self.reader.tokenizer, self.reader.image_processor)
        save_backbone(checkpoint, Path(folder) / BACKBONE_FOLDER)

    @classmethod
    def from_pretrained(cls, folder: Path, runtime: MllmRuntime | None = None) -> MllmEncoder:
        """Load what `save_pretrained` wrote, in evaluation mode.

        Raises:
            UserError: the folder is incomplete, or weights and configuration do not fit.
        """
        runtime = runtime or MllmRuntime()
        runtime.check_runtime()
        config = MllmConfig.from_dict(read_config(folder), str(folder / "config.json"))
        encoder = cls(rebuild_checkpoint(folder / BACKBONE_FOLDER, runtime), config, runtime)
        load_weights(encoder, folder)
        return encoder.eval()


def _check(options: MllmOptions) -> None:
    options.config.check("mllm options")
    options.runtime.check_runtime()
