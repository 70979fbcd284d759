"""Who makes titles and pictures and who judges them, by the names that a user gives; none is loaded twice."""

from __future__ import annotations

import torch

from encoders.augment.agreement import Agreement, sample_of
from encoders.augment.enrich_mllm import MllmEnricher
from encoders.augment.enrich_rules import RuleEnricher
from encoders.augment.image_variants import ImageAugmenter
from encoders.augment.images_local import LocalImages
from encoders.augment.provenance import model_name
from encoders.augment.title import TitleEnricher
from encoders.encoder import Encoder
from encoders.loading import load_encoder
from moonrec.errors import UserError
from moonrec.tables import Table

RULES, LOCAL, NONE = "rules", "local", "none"
OWN = (RULES, LOCAL, NONE)


class Models:
    """Loads what the options name.

    Args:
        items: the catalogue.
        device: where models run.
    """

    def __init__(self, items: Table, device: torch.device) -> None:
        self._items = items
        self._device = device
        self._encoders: dict[str, tuple[Encoder, bool]] = {}

    def titles(self, name: str) -> TitleEnricher | None:
        """`rules`, `none`, or an MLLM by folder, run or hub name.

        Raises:
            UserError: there is no such model, or it writes no words.
        """
        if name == NONE:
            return None
        if name == RULES:
            return RuleEnricher()
        from encoders.mllm.encoder import MllmEncoder

        encoder, _ = self._encoder(name)
        if not isinstance(encoder, MllmEncoder):
            kind = encoder.config.backbone
            raise UserError(
                f"--titles {name}: is of kind {kind!r}, which writes no words; name an MLLM, `{RULES}` or "
                f"`{NONE}`"
            )
        return MllmEnricher(encoder, model_name(name))

    def images(self, name: str) -> ImageAugmenter | None:
        """`local`, `none`, or an image-editing pipeline of diffusers by folder or hub name.

        Raises:
            UserError: there is no such pipeline, or diffusers is not installed.
        """
        if name == NONE:
            return None
        if name == LOCAL:
            return LocalImages()
        from encoders.augment.images_diffusers import EditedImages

        return EditedImages.from_checkpoint(name, self._device)

    def agreement(self, name: str, minimum: float) -> Agreement:
        """Who judges pictures: an encoder, fitted to some items of the catalogue where it is untrained."""
        encoder, ready = self._encoder(name)
        return Agreement(encoder, self._device, sample_of(self._items), minimum, calibrate=not ready)

    def _encoder(self, name: str) -> tuple[Encoder, bool]:
        if name not in self._encoders:
            encoder, ready = load_encoder(name, self._items)
            self._encoders[name] = (encoder.to(self._device).eval(), ready)
        return self._encoders[name]
