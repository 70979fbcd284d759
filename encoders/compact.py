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
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from encoders.features import FeatureBatch, FeatureTable
from encoders.fusion import FusionTransformer, aspect_of_tokens, masked_mean
from encoders.products import Aspect
from encoders.towers import IMAGE_CHANNELS, TEXT_CHANNELS, Towers, pretrained_fingerprint
from moonrec.errors import UserError

_CALIBRATION_ROWS = 20_000


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of the compact encoder; `trained_towers` says whether the checkpoint holds its own towers."""

    dim: int = 128
    width: int = 256
    layers: int = 2
    heads: int = 4
    ratio: int = 2
    trained_towers: bool = False
    backbone: str = "compact"


class CompactEncoder(nn.Module):
    """Features of products to unit vectors.

    `towers` turn raw products into features and run ahead of this module; they are part of it only so that
    `--train-towers` can train and save them.
    """

    def __init__(self, config: CompactConfig, *, towers: Towers | None = None) -> None:
        super().__init__()
        self.config = config
        self.image_in = nn.Linear(IMAGE_CHANNELS, config.width)
        self.text_in = nn.Linear(TEXT_CHANNELS, config.width)
        self.aspect = nn.Embedding(len(Aspect), config.width)
        self.fusion = FusionTransformer(
            width=config.width, layers=config.layers, heads=config.heads, ratio=config.ratio
        )
        self.out = nn.Linear(config.width, config.dim)
        for layer in (self.image_in, self.text_in, self.out):
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.aspect.weight)
        self.towers = towers if towers is not None and config.trained_towers else None

    def forward(self, features: FeatureBatch) -> Tensor:
        """Features of B products to unit vectors (B, E); a product with nothing to encode gets zeros."""
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
        pooled_BD = nn.functional.normalize(image_BD, dim=1) + nn.functional.normalize(text_BD, dim=1)
        with torch.autocast(pooled_BD.device.type, enabled=False):
            vectors_BE = nn.functional.normalize(self.out(pooled_BD), dim=1)
        return vectors_BE.masked_fill(features.is_empty_B()[:, None], 0)

    @torch.no_grad()
    def calibrate(self, features: FeatureTable, rows: np.ndarray | None = None, seed: int = 0) -> None:
        """Start the projections at the principal directions of the towers' features of these products.

        `rows` names the products that may be looked at (default: all of them).

        Each modality takes half of the trunk's width. The directions are those of the uncentred features of
        unit length, so that cosines between the towers' own vectors survive: on photos taken in shops,
        removing the mean of clean catalogue pictures lowered recall, and so did whitening.
        """
        rows = np.arange(len(features)) if rows is None else rows
        if len(rows) > _CALIBRATION_ROWS:
            chosen = np.random.default_rng(seed).choice(rows, _CALIBRATION_ROWS, replace=False)
            rows = np.sort(chosen)
        image, text = [], []
        for part in np.array_split(rows, max(1, len(rows) // 512)):
            batch = features.gather(part)
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

    def fingerprint(self) -> str:
        """A digest of the configuration and every weight: the same digest, the same vectors."""
        hasher = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            hasher.update(name.encode())
            hasher.update(value.detach().cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def towers_fingerprint(self) -> str:
        """A digest of the towers that this encoder's features must come from."""
        if self.towers is None:
            return pretrained_fingerprint()
        hasher = hashlib.sha256()
        for value in self.towers.state_dict().values():
            hasher.update(value.detach().cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, the form of Hugging Face, into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        # Not `save_file`: its files are readable by their owner alone, whatever the umask says.
        (folder / "model.safetensors").write_bytes(save(state, metadata={"format": "pt"}))
        (folder / "config.json").write_text(
            json.dumps(asdict(self.config), indent=2) + "\n", encoding="utf-8"
        )

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> CompactEncoder:
        """Load what `save_pretrained` wrote: from a folder, or from the Hugging Face hub by `owner/name`.

        Raises:
            UserError: the folder holds no compact encoder, or its weights do not fit its configuration.
        """
        folder = _local_folder(str(name_or_path))
        config = _read_config(folder / "config.json")
        model = cls(config, towers=Towers() if config.trained_towers else None)
        try:
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{folder}/model.safetensors: does not fit config.json ({error})") from error
        return model.eval()


def principal_directions(x_NC: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` leading principal directions (count, C) of rows scaled to unit length, and the projections.

    Directions beyond the rank are zero. The mean is not removed.
    """
    x_NC = nn.functional.normalize(x_NC.float(), dim=1)
    # Of a symmetric matrix these are its eigenvectors; `eigh` does not converge on a few pictures.
    _, values, directions = torch.linalg.svd(x_NC.T @ x_NC)
    kept = values[:count] > 1e-6 * values[0].clamp_min(1e-12)
    directions = directions[:count] * kept[:, None]
    if len(directions) < count:
        directions = torch.cat([directions, torch.zeros(count - len(directions), x_NC.shape[1])])
    return directions, x_NC @ directions.T


def _local_folder(name_or_path: str) -> Path:
    folder = Path(name_or_path)
    if folder.is_dir() and (folder / "model" / "config.json").exists():
        return folder / "model"
    if folder.is_dir():
        return folder
    if name_or_path.count("/") == 1 and not name_or_path.startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(name_or_path, allow_patterns=["*.json", "*.safetensors"]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            first = str(error).splitlines()[0]
            raise UserError(
                f"{name_or_path}: no such folder, and not to be had from the hub ({first})"
            ) from error
    raise UserError(f"{name_or_path}: no such folder; an encoder is a run folder, or `compact` (untrained)")


def _read_config(path: Path) -> CompactConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no readable encoder configuration; expected an encoder's folder") from error
    known = {field.name for field in fields(CompactConfig)}
    if not isinstance(values, dict) or values.get("backbone") != "compact" or set(values) - known:
        raise UserError(f"{path}: does not describe a compact encoder")
    config = CompactConfig(**values)
    sizes = (config.dim, config.width, config.layers, config.heads, config.ratio)
    if not all(type(size) is int and 0 < size <= 8192 for size in sizes):
        raise UserError(f"{path}: sizes must be whole numbers from 1 to 8192")
    if config.width % config.heads:
        raise UserError(f"{path}: width {config.width} is not a multiple of heads {config.heads}")
    if type(config.trained_towers) is not bool:
        raise UserError(f"{path}: trained_towers is {config.trained_towers!r}, expected true or false")
    return config
