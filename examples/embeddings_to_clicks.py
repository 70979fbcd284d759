"""The main job in one script, top to bottom: products in, frozen embeddings, a click model that uses them.

Everything a command does can be called from Python; this is the chain of `moonrec demo` on your own tables.
Without tables of your own it simulates a small marketplace first, so that it runs as it stands:

    python examples/embeddings_to_clicks.py --out /tmp/chain
    python examples/embeddings_to_clicks.py --data YOUR_FOLDER --out /tmp/chain
"""

from __future__ import annotations

from pathlib import Path

import click

import moonrec


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="A folder as `moonrec simulate` writes.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for all outputs.")
def main(data: Path | None, out: Path) -> None:
    """Post-train an encoder, export embeddings, train click models with and without them."""
    if data is None:
        data = out / "data"
        moonrec.simulate(data, items=300, users=400)

    def table(name: str) -> str:
        return str(data / f"{name}.parquet")

    # 1. The encoder learns from behaviour. The test impressions are named so that nothing from each user's
    #    test period on is learnt from: otherwise the AUC below would be optimistic.
    moonrec.posttrain(
        moonrec.PosttrainConfig(
            items=table("items"),
            searches=table("searches_train"),
            events=table("events"),
            holdout=table("impressions_test"),
            epochs=3,
            out=str(out / "encoder"),
        )
    )

    # 2. Its vectors are frozen into a folder that opens by memory map, whatever its size.
    moonrec.export(
        moonrec.ExportConfig(encoder=str(out / "encoder"), items=table("items"), out=str(out / "embeddings"))
    )
    embeddings = moonrec.EmbeddingSet.open(out / "embeddings")
    print(f"{len(embeddings):,} items, {embeddings.dimension} dimensions")

    # 3. Click models: ids alone, then ids with the frozen vectors.
    for content in ("none", "cube"):
        metrics = moonrec.train_ctr(
            moonrec.TrainConfig(
                impressions=table("impressions_train"),
                test=table("impressions_test"),
                events=table("events"),
                embeddings=None if content == "none" else str(out / "embeddings"),
                content=(content,),
                out=str(out / f"ctr_{content}"),
            )
        )
        print(f"{content}: AUC {metrics['test']['auc']:.4f}, GAUC {metrics['test']['gauc']:.4f}")


if __name__ == "__main__":
    main()
