"""A moonrec encoder behind the interface of mteb, whose tasks then measure it like any other model.

    import mteb, moonrec

    model = moonrec.MtebEncoder("runs/encoder")
    mteb.evaluate(model, mteb.get_tasks(tasks=["Fashion200kT2IRetrieval"]))

mteb is an optional extra (`pip install moonrec[mteb]`); https://github.com/embeddings-benchmark/mteb.

Shapes: N inputs, E width of the vectors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from encoders.evaluation.mteb_inputs import products_of, undecoded
from encoders.evaluation.working_encoder import WorkingEncoder
from encoders.export import checked_dim
from encoders.loading import cache_folder
from encoders.precision import pick_device
from encoders.products import EVERYTHING, BrokenImages, Product
from moonrec.errors import UserError
from moonrec.tables import ITEMS, open_table

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models import ModelMeta
    from mteb.types import PromptType

    from encoders.regions.find import Regions

_DOCUMENT = "document"


class MtebEncoder:
    """What `mteb.evaluate` takes as a model: texts, pictures, or both together to unit vectors.

    A text is read as a product's title, of which every backbone reads the beginning only (`compact`: 32 word
    pieces); a row with a text and a picture is one product with both. mteb's prompts and instructions reach
    the encoder only as far as mteb writes them into the text. Core regions of pictures are found on the way
    where the encoder wants them, by the frozen image tower.

    Args:
        encoder: a run folder, a checkpoint, or an untrained encoder by name.
        items: the catalogue that an untrained encoder is fitted to.
        device: where to compute.
        cache: folder of the feature cache (None: the default one, "": none).
        dim: keep only the first so many dimensions.

    Attributes:
        mteb_model_meta: name, fingerprint (as the revision), modalities and sizes, as mteb keeps them.
        broken: the pictures met so far that could not be used.

    Raises:
        UserError: mteb is not installed, there is no such encoder, or it has fewer dimensions than `dim`.
    """

    mteb_model_meta: ModelMeta

    def __init__(
        self,
        encoder: str | Path,
        *,
        items: str | Path | None = None,
        device: str = "auto",
        cache: str | Path | None = None,
        dim: int | None = None,
    ) -> None:
        _check_installed()
        catalogue = None if items is None else open_table(items, ITEMS)
        worker = WorkingEncoder.start(str(encoder), catalogue, pick_device(device), cache_folder(cache))
        self._worker = worker.at(checked_dim(dim, worker.encoder))
        self.mteb_model_meta = _meta(encoder, self._worker)

    @property
    def broken(self) -> BrokenImages:
        """The pictures met so far that could not be used."""
        return self._worker.preparer.broken

    def encode(
        self,
        inputs: DataLoader[Any],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **options: Any,
    ) -> np.ndarray:
        """Unit vectors (N, E) float32 of all inputs; zeros where there is neither picture nor words.

        Those of documents are rounded to float16: so an embedding set holds a catalogue, and so `moonrec
        evaluate` ranks it.

        Pictures that cannot be used are left out of their products, counted in `broken` and told on stderr.

        Args:
            inputs: batches with `text`, `image`, or both.
            task_metadata, hf_split, hf_subset, prompt_type: what is encoded, named in messages.
            options: mteb's own; the batch size is that of the encoder, and its progress bar ours.

        Raises:
            UserError: the inputs are of another modality, or quantised vectors are asked for.
        """
        if (precision := options.get("precision")) not in (None, "float32"):
            raise UserError(f"precision {precision!r}: a moonrec encoder gives float32; leave it out")
        role = None if prompt_type is None else prompt_type.value
        where = " ".join(filter(None, (task_metadata.name, f"{hf_subset}/{hf_split}", role)))
        known = self.broken.count
        products = self._located(products_of(undecoded(inputs), where))
        shards = self._worker.shards(products, None, where)
        vectors = [self._worker.vectors(shard, EVERYTHING)[0] for shard in shards]
        self._tell_broken(where, known)
        found_NE = np.concatenate([np.zeros((0, self._worker.dim), np.float32), *vectors])
        return found_NE.astype(np.float16).astype(np.float32) if role == _DOCUMENT else found_NE

    def similarity(self, embeddings1: np.ndarray | Tensor, embeddings2: np.ndarray | Tensor) -> Tensor:
        """Cosines of all pairs (N1, N2); the vectors are of unit length."""
        return _rows(embeddings1) @ _rows(embeddings2).T

    def similarity_pairwise(
        self, embeddings1: np.ndarray | Tensor, embeddings2: np.ndarray | Tensor
    ) -> Tensor:
        """Cosines (N,) of the pairs that stand in the same row."""
        return (_rows(embeddings1) * _rows(embeddings2)).sum(1)

    def _located(self, batches: Iterable[list[Product]]) -> Iterable[list[Product]]:
        """The products with their core regions, for an encoder that looks at them."""
        return self._regions.attach(batches) if self._worker.encoder.config.regions else batches

    def _tell_broken(self, where: str, known: int) -> None:
        """Tell of the pictures that were found to be broken after the first `known` ones."""
        if self.broken.count == known:
            return
        # Only the first twenty are kept as examples.
        examples = [f"{key}: {reason}" for key, reason in self.broken.examples[known : known + 3]]
        shown = f" ({'; '.join(examples)})" if examples else ""
        told = f"unusable pictures left out: {self.broken.count - known:,}{shown}"
        print(f"warning: {where}: {told}", file=sys.stderr, flush=True)

    @cached_property
    def _regions(self) -> Regions:
        from encoders.regions.find import Regions
        from encoders.regions.saliency import SaliencyDetector
        from encoders.regions.store import RegionStore
        from encoders.towers import ImageTower

        tower = ImageTower()
        tower.load_pretrained()
        detector = SaliencyDetector(tower.requires_grad_(False), self._worker.device)
        # mteb's data have no table of ours for the boxes to lie beside: they stay in memory.
        return Regions(detector, RegionStore(None, detector.fingerprint()))


def _check_installed() -> None:
    try:
        import mteb  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"MtebEncoder needs mteb, which cannot be imported ({error}); run `pip install moonrec[mteb]`"
        ) from error


def _meta(encoder: str | Path, worker: WorkingEncoder) -> ModelMeta:
    """What mteb says of the model, and under which names it keeps its results."""
    from mteb.models import ModelMeta

    path = Path(encoder).resolve()
    parameters = _parameters(worker)
    width = worker.encoder.config.dim
    return ModelMeta(
        loader=None,
        name=f"moonrec/{path.parent.name if path.name == 'model' else path.name}",
        revision=worker.encoder.fingerprint(),
        release_date=None,
        languages=None,
        n_parameters=sum(one.numel() for one in parameters),
        memory_usage_mb=sum(one.nbytes for one in parameters) / 2**20,
        max_tokens=None,
        embed_dim=worker.dim,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name="cosine",
        use_instructions=False,
        training_datasets=None,
        modalities=["image", "text"],
        # Results of another width are results of another experiment on the same weights.
        experiment_kwargs=None if worker.dim == width else {"dim": worker.dim},
    )


def _parameters(worker: WorkingEncoder) -> list[nn.Parameter]:
    """All parameters; the frozen towers of the compact backbone belong to what prepares its products."""
    parts = [worker.encoder, *(one for one in vars(worker.preparer).values() if isinstance(one, nn.Module))]
    return list({id(one): one for part in parts for one in part.parameters()}.values())


def _rows(vectors: np.ndarray | Tensor) -> Tensor:
    return torch.atleast_2d(torch.as_tensor(vectors)).float()
