"""The dual encoder: two towers that never see each other, pooled; the baseline that MOON is compared with.

Any CLIP, SigLIP, SigLIP 2 or Chinese-CLIP checkpoint (MOON, https://arxiv.org/abs/2508.11999, compares with
these). A product is the sum of its image vector (the mean over the whole picture and its core region) and its
text vector, both of unit length, through an output projection. Ours: the projection starts as an isometry
where it is at least as wide as the towers' space, so that the untrained encoder's cosines are exactly those
of the towers; narrower ones start at the principal directions of the catalogue.

Shapes: B products, V pictures, W texts, P width of the towers' common space, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from encoders.dual.checkpoint import Checkpoint
from encoders.dual.guided_text import add_text_experts, spread_gates
from encoders.dual.inputs import DualBatch, DualReader
from encoders.dual.options import DualConfig, DualOptions, DualRuntime
from encoders.encoder import (
    CONFIG_FILE,
    Encoder,
    ProductTable,
    load_weights,
    principal_directions,
    read_config,
    save_weights,
)
from encoders.mllm.guided_layers import Guide
from encoders.precision import autocast
from encoders.raw_products import RawPreparer, prefetch
from moonrec.errors import UserError

BACKBONE_FOLDER = "backbone"
_TOWER_RATE = 0.1
_CALIBRATION_ROWS = 2_000
_CALIBRATION_BATCH = 64


class DualEncoder(Encoder):
    """Products to unit vectors by two towers; make one with `from_checkpoint`, or `tiny` for tests.

    Example:
        >>> encoder = DualEncoder.from_checkpoint("openai/clip-vit-base-patch32")  # doctest: +SKIP
        >>> table = encoder.preparer(None, torch.device("cpu")).table(products)  # doctest: +SKIP
        >>> vectors_BE = encoder(table.gather(np.arange(8)))  # doctest: +SKIP
    """

    config: DualConfig
    keep_weight = 1.0

    def __init__(self, config: DualConfig, checkpoint: Checkpoint) -> None:
        super().__init__()
        config.check("dual encoder")
        self.config = config
        self.towers: Any = checkpoint.towers
        self._checkpoint = checkpoint
        self._reader = DualReader(
            family=checkpoint.family,
            tokenizer=checkpoint.tokenizer,
            processor=checkpoint.processor,
            text_length=checkpoint.text_length,
            regions=config.regions,
        )
        if config.experts:
            if not checkpoint.tokenizer.is_fast:
                raise UserError(
                    f"experts {config.experts}: the tokenizer of this checkpoint does not say where in a "
                    "text its word pieces stand; expected experts 0, or a checkpoint with a tokenizer.json"
                )
            add_text_experts(
                self.towers.text_model,
                experts=config.experts,
                experts_per_token=config.experts_per_token,
                guided=config.guided,
            )
        # Of the checkpoint's own loss, which is not used here.
        for name in ("logit_scale", "logit_bias"):
            if hasattr(self.towers, name):
                getattr(self.towers, name).requires_grad_(False)
        self.out = nn.Linear(_common_width(self.towers.config), config.dim)
        nn.init.eye_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @classmethod
    def from_checkpoint(cls, source: str | Path, options: DualOptions | None = None) -> Self:
        """The untrained baseline from a Hugging Face checkpoint, by folder or hub name; in evaluation mode.

        Raises:
            UserError: the checkpoint is not there, incomplete or not of CLIP kind, or options do not fit.
        """
        options = options or DualOptions()
        options.check(str(source))
        options.check_runtime()
        encoder = cls(options.config, Checkpoint.load(str(source), options.runtime))
        return encoder._prepared(options)

    @classmethod
    def tiny(
        cls,
        texts: Iterable[str],
        *,
        family: str = "clip",
        seed: int = 0,
        options: DualOptions | None = None,
    ) -> Self:
        """A random encoder of some ten thousand weights, whose tokenizer is made from `texts`; for tests.

        Raises:
            UserError: `family` is none of clip, siglip, siglip2 and chinese_clip, or options do not fit.
        """
        from encoders.dual.tiny import tiny_checkpoint

        options = options or DualOptions(dims=(24,))
        options.check("tiny dual encoder")
        options.check_runtime()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = cls(options.config, tiny_checkpoint(texts, family, options.runtime))
        return encoder._prepared(options)

    def _prepared(self, runtime: DualRuntime) -> Self:
        if runtime.gradient_checkpointing:
            self.towers.gradient_checkpointing_enable({"use_reentrant": False})
        return self.eval()

    def forward(self, batch: DualBatch) -> Tensor:
        """A batch of its own tables to unit vectors (B, E) float32; zeros where nothing is to encode."""
        pooled_BP = self.pool(batch)
        with torch.autocast(pooled_BP.device.type, enabled=False):
            vectors_BE = nn.functional.normalize(self.out(pooled_BP.to(self.out.weight.dtype)), dim=1)
        return vectors_BE.masked_fill(batch.is_empty_B()[:, None], 0)

    def pool(self, batch: Any) -> Tensor:
        """The sum of image and text vector, each of unit length or zero: (B, P) float32."""
        device = batch.owner_V.device
        zero_BP = torch.zeros(len(batch), self.out.in_features, device=device)
        image_BP, text_BP = zero_BP, zero_BP
        if batch.pictures:
            seen_VP = self.towers.get_image_features(**self._inputs(batch.pictures)).pooler_output
            image_BP = zero_BP.index_add(0, batch.owner_V, nn.functional.normalize(seen_VP.float(), dim=1))
        if batch.words:
            guide = {}
            if self.config.experts:
                guide = {"guide": Guide(batch.aspect_WT, batch.mask_WT, bidirectional=True)}
            read_WP = self.towers.get_text_features(**batch.words, **guide).pooler_output
            spread_gates(self.guided_experts(), batch.owner_W, len(batch))
            text_BP = zero_BP.index_copy(0, batch.owner_W, read_WP.float())
        return nn.functional.normalize(image_BP, dim=1) + nn.functional.normalize(text_BP, dim=1)

    def _inputs(self, pictures: dict[str, Tensor]) -> dict[str, Tensor]:
        dtype = self.towers.dtype
        return {name: v.to(dtype) if v.is_floating_point() else v for name, v in pictures.items()}

    @torch.no_grad()
    def calibrate(self, table: ProductTable, rows: np.ndarray | None = None, seed: int = 0) -> None:
        """Start the projection at the principal directions of these products' pooled vectors.

        Where every Matryoshka size is at least as wide as the towers' space, it stays the identity, and no
        product is looked at.

        Args:
            table: of this encoder's preparer.
            rows: which of its products may be looked at (default: all); at most 2,000 of them are.
            seed: draws those.
        """
        width = self.out.in_features
        if self.config.dims[-1] >= width:
            return
        rows = np.arange(len(table)) if rows is None else rows
        if len(rows) > _CALIBRATION_ROWS:
            chosen = np.random.default_rng(seed).choice(rows, _CALIBRATION_ROWS, replace=False)
            rows = np.sort(chosen)
        device, training = self.out.weight.device, self.training
        self.eval()
        pooled = [torch.zeros(0, width)]
        for batch in prefetch(table, np.array_split(rows, max(1, -(-len(rows) // _CALIBRATION_BATCH)))):
            with autocast(device):
                pooled.append(self.pool(batch.to(device)).cpu())
        self.train(training)
        directions_PP = principal_directions(torch.cat(pooled), width)[0]
        kept_RP = directions_PP[directions_PP.any(1)]
        # Directions that no product has are filled up, so that other products keep their cosines too.
        basis_PP = torch.linalg.qr(torch.cat([kept_RP, torch.eye(width)]).T)[0].T
        self.out.weight.zero_()
        self.out.weight[:width] = basis_PP[: self.config.dim].to(device)

    def preparer(self, cache: Path | None, device: torch.device) -> RawPreparer:
        """What makes this encoder's tables. Nothing is worth caching: both arguments are ignored."""
        del cache, device
        return RawPreparer(self._reader.collate)

    def training_preparer(self, cache: Path | None, device: torch.device, folder: Path) -> RawPreparer:
        """The same, with the spool of undecoded products in `folder`."""
        del cache, device
        return RawPreparer(self._reader.collate, folder=folder)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The fresh parts (projection, routers) at the learning rate, the pretrained towers at a tenth."""
        fresh: list[nn.Parameter] = []
        pretrained: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                is_fresh = name.startswith("out.") or name.endswith(".router")
                (fresh if is_fresh else pretrained).append(parameter)
        return [
            {"params": fresh, "lr": learning_rate},
            {"params": pretrained, "lr": learning_rate * _TOWER_RATE},
        ]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, `model.safetensors` and, under `backbone/`, what rebuilds the towers."""
        save_weights(self, Path(folder))
        self._checkpoint.save(Path(folder) / BACKBONE_FOLDER)

    @classmethod
    def from_pretrained(cls, folder: str | Path, runtime: DualRuntime | None = None) -> Self:
        """Load what `save_pretrained` wrote, in evaluation mode; without the internet.

        Raises:
            UserError: the folder is incomplete, or weights and configuration do not fit.
        """
        folder, runtime = Path(folder), runtime or DualRuntime()
        runtime.check_runtime()
        config = DualConfig.from_dict(read_config(folder), str(folder / CONFIG_FILE))
        backbone = folder / BACKBONE_FOLDER
        if not backbone.is_dir():
            raise UserError(f"{backbone}: no such folder; expected the towers' config and tokenizer there")
        encoder = cls(config, Checkpoint.rebuild(backbone, runtime))
        load_weights(encoder, folder)
        return encoder._prepared(runtime)


def _common_width(config: Any) -> int:
    """The width of the space that both towers map to."""
    if config.model_type in ("clip", "chinese_clip"):
        return int(config.projection_dim)
    return int(config.text_config.projection_size)
