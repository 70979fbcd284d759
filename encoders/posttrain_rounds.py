"""What the rounds of post-training train on, and against which negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from encoders.catalogue_pairs import catalogue_pairs
from encoders.cleaning import (
    Cleaned,
    CleaningSteps,
    Evidence,
    clean,
    exposure_counts,
    top_categories,
)
from encoders.encoder import Encoder
from encoders.encoding import encode_together
from encoders.entities import Entities
from encoders.features import FeatureTable
from encoders.hard_negatives import CategoryTree, HardNegatives
from encoders.joint_round import JointRound
from encoders.modality_mix import (
    EVEN,
    ROUND_ONE,
    ROUND_TWO,
    Combination,
    Contents,
    ModalityMix,
    SourcePools,
    pools_of,
)
from encoders.objective.config import JointConfig, ObjectiveConfig
from encoders.pairs import Pairs, PairSource, pairs_from_events, pairs_from_searches
from encoders.products import IMAGE_ONLY, TEXT_ONLY
from encoders.purchases import find_purchases
from encoders.sampling import PlannedBatch, epoch_plan
from encoders.training_data import Products
from encoders.training_round import Round
from encoders.validation_recall import Validate, ValidationRecall
from moonrec.errors import UserError
from moonrec.tables import Table

if TYPE_CHECKING:
    from encoders.posttrain import PosttrainConfig

_CANDIDATES = 20_000
_CANDIDATES_LIVE = 4_000
# Of the learning rate: round 2 refines what round 1 has found, on fewer and steeper pairs. Ours.
_SECOND_RATE = 1 / 3


def joint_config(config: PosttrainConfig) -> JointConfig:
    """The parts of the joint round's loss.

    Raises:
        UserError: weights that leave nothing to learn from.
    """
    return JointConfig(
        learned_weights=config.objective_weights == "learned",
        inter_weight=config.inter_weight,
        intra_weight=config.intra_weight,
        sparsity_weight=config.sparsity_weight,
        filter=config.filter,
    )


class RoundMaker:
    """Makes the rounds of one run.

    Args:
        config: the options.
        tables: of `open_tables`.
        products: catalogue and queries.
        encoder: what is trained.
        keep: how strongly vectors are held to where a round started.
        processes: that share a batch.
        device: where the encoder computes.
    """

    def __init__(
        self,
        config: PosttrainConfig,
        tables: dict[str, Table],
        products: Products,
        encoder: Encoder,
        *,
        keep: float,
        processes: int,
        device: torch.device,
    ) -> None:
        self._config = config
        self._tables = tables
        self._products = products
        self._encoder = encoder
        self._keep = keep
        self._processes = processes
        self._device = device
        table = products.table
        self._contents = Contents.of(table.has_image(), table.has_text(), tables["items"])
        self._mix = ModalityMix() if config.modality_mix is None else ModalityMix.parse(config.modality_mix)
        self.sources = [self._pairs(name, ()) for name in ("searches", "events") if name in tables]
        self._own_sides = catalogue_pairs(products, config.seed)
        if "joint" in config.rounds and not config.inter_weight and not len(self._own_sides.training):
            raise UserError(
                "--inter-weight 0 leaves nothing to learn: fewer than two products have a picture and words"
            )
        if "2" in config.rounds:
            # Before hours of round 1: what would stop round 2 is seen here.
            self._evidence = self._gather_evidence()
            self._bought = find_purchases(self.sources, tables, config.purchase_types, self._pairs)
            for bought in self._bought:
                self._cleaned(bought.source, np.zeros(len(bought.source.training)))

    def first(self) -> Round:
        """All behaviour, in many modality combinations, against in-batch negatives."""
        config = self._config
        objective = ObjectiveConfig(
            "infonce",
            self._encoder.config.dims,
            spatial=False,
            balance_weight=config.balance_weight,
            keep_weight=self._keep,
        )
        return self._round("round 1", self.sources, ROUND_ONE, objective)

    def second(self) -> Round:
        """Cleaned purchases, against hard, spatial and temporal negatives."""
        config, products, bought = self._config, self._products, self._bought
        cleaned = [self._cleaned(b.source, self._cosines(b.source.training)) for b in bought]
        sources = [replace(b.source, training=c.pairs) for b, c in zip(bought, cleaned, strict=True)]
        found = np.concatenate([products.product_M[source.training.positive] for source in sources])
        # Hard negatives may be anything; without them only what was bought comes into the queue.
        reachable = products.product_M if config.hard_negatives else found
        queue = min(config.queue, len(np.unique(reachable)))
        objective = ObjectiveConfig(
            config.loss,
            self._encoder.config.dims,
            spatial=config.spatial,
            queue=queue,
            balance_weight=config.balance_weight,
            keep_weight=self._keep,
        )
        made = self._round("round 2", sources, ROUND_TWO, objective, [c.weights for c in cleaned])
        facts = {
            "purchases": {b.source.name: list(b.types) for b in bought},
            "cleaning": {b.source.name: c.counts for b, c in zip(bought, cleaned, strict=True)},
            "queue": {"asked": config.queue, "held": queue},
        }
        known = [b.source for b in bought]
        hard = self._hard_negatives(sources, known) if config.hard_negatives else ()
        return replace(
            made,
            learning_rate=config.learning_rate * _SECOND_RATE,
            hard=hard,
            hard_count=config.hard_negatives,
            facts=made.facts | facts,
        )

    def joint(self) -> Round:
        """All behaviour, with queries of all modalities in every batch, against hard negatives as well."""
        config, products = self._config, self._products
        mix = EVEN if config.modality_mix is None else self._mix
        own_sides = self._own_sides
        held_out_M = np.zeros(len(products.item_ids), bool)
        held_out_M[own_sides.validation.positive] = True
        joint = JointRound(joint_config(config), self._contents, mix, held_out_M)
        queue = min(config.queue, len(np.unique(products.product_M)))
        objective = ObjectiveConfig(
            "infonce",
            self._encoder.config.dims,
            spatial=config.spatial,
            queue=queue,
            balance_weight=config.balance_weight,
            keep_weight=self._keep,
        )
        pools = [joint.pools(source.training) for source in self.sources]
        made = self._made("joint round", self.sources, pools, objective)
        for source in self.sources:
            made.facts["modalities"][source.name]["shares"] = joint.shares(source.training)
        first = config.rounds[0] == "joint"
        return replace(
            made,
            learning_rate=config.learning_rate * (1.0 if first else _SECOND_RATE),
            hard=self._hard_negatives(self.sources, self.sources) if config.hard_negatives else (),
            hard_count=config.hard_negatives,
            joint=joint,
            validate=self._validates_both(made.validate, own_sides) if config.intra_weight else made.validate,
            facts=made.facts | {"queue": {"asked": config.queue, "held": queue}},
        )

    def _validates_both(self, found: Validate, own_sides: PairSource) -> Validate:
        """Of both alignments: whether items are found, and whether pictures find their own words."""
        agree = ValidationRecall(
            [own_sides],
            items=len(self._products.item_ids),
            candidates=self._candidates(),
            seed=self._config.seed,
            query_view=IMAGE_ONLY,
            item_view=TEXT_ONLY,
        )
        return lambda encoder, table, device: found(encoder, table, device) | agree(encoder, table, device)

    def _candidates(self) -> int:
        return _CANDIDATES if isinstance(self._products.table, FeatureTable) else _CANDIDATES_LIVE

    def _round(
        self,
        name: str,
        sources: Sequence[PairSource],
        combinations: Sequence[Combination],
        objective: ObjectiveConfig,
        weights: Sequence[np.ndarray | None] | None = None,
    ) -> Round:
        pools = [pools_of(s.training, self._contents, combinations, self._mix) for s in sources]
        return self._made(name, sources, pools, objective, weights)

    def _made(
        self,
        name: str,
        sources: Sequence[PairSource],
        pools: Sequence[SourcePools],
        objective: ObjectiveConfig,
        weights: Sequence[np.ndarray | None] | None = None,
    ) -> Round:
        config, items = self._config, len(self._products.item_ids)
        share = dict(zip(("searches", "events"), config.mix, strict=True))

        def plan(epoch: int) -> list[PlannedBatch]:
            return epoch_plan(
                pools,
                [share[source.name] for source in sources],
                batch_size=config.batch_size * self._processes,
                pairs_per_epoch=config.pairs_per_epoch,
                seed=config.seed,
                epoch=epoch,
                weights=weights,
                multiple_of=self._processes,
            )

        validate = ValidationRecall(
            sources,
            items=items,
            candidates=self._candidates(),
            seed=config.seed,
        )
        facts = {
            "modalities": {
                source.name: {"shares": pool.shares(), "hidden": pool.hidden, "missing": list(pool.missing)}
                for source, pool in zip(sources, pools, strict=True)
            },
            "batch": {
                "asked": config.batch_size * self._processes,
                "largest": max((len(batch.rows) for batch in plan(1)), default=0),
            },
        }
        return Round(
            name,
            sources,
            plan,
            objective,
            validate,
            config.learning_rate,
            config.epochs,
            config.patience,
            facts=facts,
        )

    def _pairs(self, name: str, types: tuple[str, ...]) -> PairSource:
        """The pairs of one table, of certain events only where such are named."""
        config, products, holdout = self._config, self._products, self._tables.get("holdout")
        if name == "searches":
            usable = products.usable()[len(products.item_ids) :]
            return pairs_from_searches(
                self._tables[name], products.item_ids, usable, config.seed, holdout, types
            )
        return pairs_from_events(
            self._tables[name],
            products.item_ids,
            event_types=types or config.event_types,
            holdout=holdout,
            window=config.window,
            max_gap_days=config.max_gap_days,
        )

    def _gather_evidence(self) -> Evidence:
        items, searches = self._tables["items"], self._tables.get("searches")
        impressions = self._tables.get("impressions")
        exposures = None
        if impressions is not None:
            exposures = exposure_counts(impressions, self._products.item_ids, self._tables.get("holdout"))
        return Evidence(
            product_N=self._products.product_M,
            query_R=self._products.query_R,
            enough_R=Entities.of_catalogue(items).enough(items, searches),
            category_N=top_categories(items),
            exposures_N=exposures,
        )

    def _cleaned(self, source: PairSource, cosine_P: np.ndarray) -> Cleaned:
        chosen = self._config.cleaning
        steps = CleaningSteps(
            hardest_query="hardest" in chosen,
            merge_skus="sku" in chosen,
            match_exposure="category" in chosen,
            entity_filter="entity" in chosen,
        )
        # The paper chooses among billions. Where an epoch could pass all pairs, there is nothing to choose.
        fewest = self._config.pairs_per_epoch
        return clean(source.name, source.training, cosine_P, self._evidence, fewest=fewest, steps=steps)

    def _cosines(self, pairs: Pairs) -> np.ndarray:
        """Similarity (P,) of the two sides of pairs under the encoder as it is now."""
        sides = []
        for side_P in (pairs.anchor, pairs.positive):
            rows, place_P = np.unique(side_P, return_inverse=True)
            vectors_NE = encode_together(self._encoder, self._products.table, device=self._device, rows=rows)
            sides.append((vectors_NE, place_P))
        (anchors_NE, anchor_P), (items_ME, item_P) = sides
        parts = np.array_split(np.arange(len(pairs)), max(1, len(pairs) // 65_536))
        found = [np.einsum("pe,pe->p", anchors_NE[anchor_P[i]], items_ME[item_P[i]]) for i in parts]
        return np.concatenate(found)

    def _hard_negatives(
        self, sources: Sequence[PairSource], known: Sequence[PairSource]
    ) -> tuple[HardNegatives, ...]:
        """Per source what draws its hard negatives; `known` holds all that was taken, and is no negative."""
        items, products = self._tables["items"], self._products
        named = "category" in items.column_names
        categories = items.read(["category"]).column("category") if named else [None] * len(products.item_ids)
        tree = CategoryTree(categories, products.product_M)
        return tuple(
            HardNegatives(
                tree,
                products.text_M,
                source.training,
                self._config.seed,
                self._products.query_R,
                known=every.training,
            )
            for source, every in zip(sources, known, strict=True)
        )
