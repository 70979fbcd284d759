"""The compact encoder: two small pretrained towers, a fusion transformer, one unit vector per product.

It runs on a laptop. Tokens of the picture (a 3 x 3 grid) and of the words (each tagged with its aspect) are
projected to one width, fused in both directions, averaged, projected and scaled to unit length (MOON, section
"encoder": the representation is the mean over all last-layer tokens). Ours: each modality's tokens weigh the
same together, however many there are, since otherwise forty words would outvote nine patches; and the
projections start as the principal directions of the towers' features, so that the untrained encoder keeps
their cosines.

Shapes: B products, G grid cells, T text tokens, C tower channels, D trunk width, E embedding width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encoders.encoder import (
    CONFIG_FILE,
    Encoder,
    bytes_of,
    load_weights,
    principal_directions,
    read_config,
    save_weights,
)
from encoders.features import FeatureBatch, Featurizer
from encoders.fusion import FusionTransformer, aspect_of_tokens, masked_mean
from encoders.guided_moe import experts_fit
from encoders.products import Aspect
from encoders.raw_batches import RawBatch, RawPixels, run_towers
from encoders.towers import IMAGE_CHANNELS, TEXT_CHANNELS, Towers, pretrained_fingerprint
from moonrec.errors import UserError

_CALIBRATION_ROWS = 20_000
_STARTED_RATE = 0.1


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of the compact encoder.

    Attributes:
        dims: Matryoshka sizes, largest first; the first is the width of the vectors.
        width, layers, heads, ratio: of the fusion transformer.
        experts: experts per feed-forward part, 0 for dense ones; `experts_per_token` of them see a token.
        guided: whether two of the experts are the category's and the attributes'; else all are routed to.
        regions: whether the core region's crop enters beside the whole picture.
        trained_towers: whether the checkpoint holds its own towers.
    """

    dims: tuple[int, ...] = (256, 128, 64)
    width: int = 256
    layers: int = 2
    heads: int = 4
    ratio: int = 2
    experts: int = 6
    experts_per_token: int = 2
    guided: bool = True
    regions: bool = True
    trained_towers: bool = False
    backbone: str = "compact"

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.dims[0]


class CompactEncoder(Encoder):
    """Features of products to unit vectors.

    `towers` turn raw products into features and run ahead of this module; they are part of it only so that
    `--train-towers` can train and save them.
    """

    keep_weight = 1.0

    def __init__(self, config: CompactConfig, *, towers: Towers | None = None) -> None:
        super().__init__()
        self.config: CompactConfig = config
        self.image_in = nn.Linear(IMAGE_CHANNELS, config.width)
        self.text_in = nn.Linear(TEXT_CHANNELS, config.width)
        self.aspect = nn.Embedding(len(Aspect), config.width)
        self.fusion = FusionTransformer(
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            ratio=config.ratio,
            experts=config.experts,
            experts_per_token=config.experts_per_token,
            guided=config.guided,
        )
        self.out = nn.Linear(config.width, config.dim)
        for layer in (self.image_in, self.text_in, self.out):
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.aspect.weight)
        self.towers = towers if towers is not None and config.trained_towers else None

    def forward(self, batch: FeatureBatch | RawBatch) -> Tensor:
        """Features of B products to unit vectors (B, E); a product with nothing to encode gets zeros."""
        if isinstance(batch, RawBatch):
            assert self.towers is not None
            batch = run_towers(self.towers, batch)
        pooled_BD = self.pooled(batch)
        with torch.autocast(pooled_BD.device.type, enabled=False):
            vectors_BE = nn.functional.normalize(self.out(pooled_BD.to(self.out.weight.dtype)), dim=1)
        return vectors_BE.masked_fill(batch.is_empty_B()[:, None], 0)

    def pooled(self, features: FeatureBatch) -> Tensor:
        """Features of B products to their pooled tokens (B, D), each modality of unit length."""
        image_BGD = self.image_in(features.image_BGC.to(self.image_in.weight.dtype))
        text_BTD = self.text_in(features.text_BTC.to(self.text_in.weight.dtype))
        cells = image_BGD.shape[1]
        aspect_BS = aspect_of_tokens(cells, features.aspect_BT.long(), Aspect.IMAGE)
        image_mask_BG = features.has_image_B[:, None].expand(-1, cells)
        mask_BS = torch.cat([image_mask_BG, features.text_mask_BT], 1)
        tokens_BSD = torch.cat([image_BGD, text_BTD], 1) + self.aspect(aspect_BS)
        tokens_BSD = self.fusion(tokens_BSD, mask_BS, aspect_BS).float()
        image_BD = masked_mean(tokens_BSD[:, :cells], image_mask_BG)
        text_BD = masked_mean(tokens_BSD[:, cells:], features.text_mask_BT)
        return nn.functional.normalize(image_BD, dim=1) + nn.functional.normalize(text_BD, dim=1)

    def preparer(self, cache: Path | None, device: torch.device) -> Featurizer:
        """The towers behind the cache in the folder `cache` (None: no cache)."""
        return Featurizer(
            towers=self.towers if self.towers is not None else Towers.pretrained(),
            fingerprint=self.towers_fingerprint(),
            cache=cache,
            device=device,
            regions=self.config.regions,
        )

    def training_preparer(
        self, cache: Path | None, device: torch.device, folder: Path
    ) -> Featurizer | RawPixels:
        """Features, or raw products where the towers are trained along."""
        if not self.trains_towers:
            return self.preparer(cache, device)
        return RawPixels(folder, regions=self.config.regions)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Fresh parts at the rate, projections with a calibrated start and towers at a tenth of it."""
        fresh: list[nn.Parameter] = []
        started: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            # Adam moves every weight by about the learning rate whatever its size, and a principal direction
            # over 1,280 channels has entries of .03: an epoch of noisy pairs at the full rate wipes it out
            # (measured).
            group = started if name.split(".")[0] in ("image_in", "text_in", "out", "towers") else fresh
            if parameter.requires_grad:
                group.append(parameter)
        return [
            {"params": fresh, "lr": learning_rate},
            {"params": started, "lr": learning_rate * _STARTED_RATE},
        ]

    def upcycle(self, experts: int, experts_per_token: int, *, guided: bool = True) -> None:
        """Turn dense feed-forward parts into experts that compute the same."""
        self.fusion.upcycle(experts, experts_per_token, guided=guided)
        self.config = replace(
            self.config, experts=experts, experts_per_token=experts_per_token, guided=guided
        )

    @property
    def trains_towers(self) -> bool:
        """Whether the towers are among what is trained; else they are those that features come from."""
        return self.towers is not None and any(one.requires_grad for one in self.towers.parameters())

    def with_trained_towers(self) -> CompactEncoder:
        """This encoder with the pretrained towers as trainable parts of its own."""
        if self.towers is None:
            self.config = replace(self.config, trained_towers=True)
            self.towers = Towers.pretrained()
        self.towers.requires_grad_(True)
        return self

    @torch.no_grad()
    def calibrate(self, table: Any, rows: np.ndarray | None = None, seed: int = 0) -> None:
        """Start the projections at the principal directions of the towers' features of these products.

        `rows` names the products that may be looked at (default: all of them).

        Each modality takes half of the trunk's width. The directions are those of the uncentred features of
        unit length, so that cosines between the towers' own vectors survive: on photos taken in shops,
        removing the mean of clean catalogue pictures lowered recall, and so did whitening.
        """
        rows = np.arange(len(table)) if rows is None else rows
        if len(rows) > _CALIBRATION_ROWS:
            chosen = np.random.default_rng(seed).choice(rows, _CALIBRATION_ROWS, replace=False)
            rows = np.sort(chosen)
        image, text = [], []
        for part in np.array_split(rows, max(1, len(rows) // 512)):
            batch = table.gather(part)
            if isinstance(batch, RawBatch):
                assert self.towers is not None
                batch = run_towers(self.towers, batch)
            image.append(batch.image_BGC.float().mean(1)[batch.has_image_B])
            has_text_B = batch.text_mask_BT.any(1)
            text.append(masked_mean(batch.text_BTC.float(), batch.text_mask_BT)[has_text_B])
        half = self.config.width // 2
        image_DC, image_part = principal_directions(torch.cat(image), half)
        text_DC, text_part = principal_directions(torch.cat(text), half)
        self.image_in.weight.zero_()[:half] = image_DC
        self.text_in.weight.zero_()[half:] = text_DC
        joint = nn.functional.normalize(torch.block_diag(image_part, text_part), dim=1)
        self.out.weight.copy_(principal_directions(joint, self.config.dim)[0])

    def towers_fingerprint(self) -> str:
        """A digest of the towers that this encoder's features must come from."""
        if self.towers is None:
            return pretrained_fingerprint()
        hasher = hashlib.sha256()
        for value in self.towers.state_dict().values():
            hasher.update(bytes_of(value))
        return hasher.hexdigest()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, the form of Hugging Face, into `folder`."""
        save_weights(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: Path) -> CompactEncoder:
        """Load what `save_pretrained` wrote; its towers are frozen until `with_trained_towers`.

        Raises:
            UserError: the folder holds no compact encoder, or its weights do not fit its configuration.
        """
        config = _checked_config(folder)
        model = cls(config, towers=Towers() if config.trained_towers else None)
        load_weights(model, folder)
        if model.towers is not None:
            model.towers.requires_grad_(False)
        return model.eval()


def _checked_config(folder: Path) -> CompactConfig:
    path, values = folder / CONFIG_FILE, read_config(folder)
    known = {field.name for field in fields(CompactConfig)}
    if values.get("backbone") != "compact" or set(values) - known:
        raise UserError(f"{path}: does not describe a compact encoder of this version of moonrec")
    dims = values.get("dims", [])
    config = CompactConfig(**values | {"dims": tuple(dims) if isinstance(dims, list) else ()})
    sizes = (*config.dims, config.width, config.layers, config.heads, config.ratio)
    if not config.dims or not all(type(size) is int and 0 < size <= 8192 for size in sizes):
        raise UserError(f"{path}: sizes must be whole numbers from 1 to 8192")
    if config.width % config.heads:
        raise UserError(f"{path}: width {config.width} is not a multiple of heads {config.heads}")
    experts, per_token = config.experts, config.experts_per_token
    if not (type(experts) is int and type(per_token) is int):
        raise UserError(f"{path}: experts and experts_per_token must be whole numbers")
    if not all(type(one) is bool for one in (config.trained_towers, config.regions, config.guided)):
        raise UserError(f"{path}: trained_towers, regions and guided must be true or false")
    if experts and not (experts <= 1024 and experts_fit(experts, per_token, guided=config.guided)):
        raise UserError(f"{path}: {experts} experts with {per_token} per token do not go together")
    return config
