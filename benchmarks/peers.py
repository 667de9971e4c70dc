"""imagededup beside this project, on the same pictures and machine: how long, and how often right.

``python -m benchmarks.peers BENCH... [--weights FILE] [--pictures N] [--quick] [--json]``. Each BENCH is a labelled
pair set (see `core.learning.pairs`); without one, drawn properties stand in. Everybody encodes the pictures of the test
pairs from files, then decides those pairs. imagededup's threshold is the best one on the val pairs, this project's is
its bundle's. Source of the peer: Jain, Lennan, John, Tran, *Imagededup*, 2019: its ``PHash``, and its ``CNN`` with
another network: its users download MobileNetV3, here it gets layer4 of the ResNet50 that this project sees by, through
imagededup's own interface for custom models.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import pathlib
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torchvision

from benchmarks import results
from core import bundle, embedding, images, settings, weights
from core.learning import drawn, evaluation, methods, pairs
from workers import batching

Encodings = Mapping[str, Any]
_HASH_BITS = 64


class Peer(Protocol):
    """Encodes a folder of pictures and says how alike two of them are."""

    name: str

    def encode(self, folder: pathlib.Path) -> Encodings:
        """The encoding of each picture of a folder, by its file name."""

    def scores(self, encodings: Encodings, pair_set: pairs.PairSet) -> evaluation.Scores:
        """(n,) scores of the pairs, higher for what is likelier a duplicate."""


class PHash:
    """imagededup's DCT hash of 64 bits; score = 1 − Hamming distance / 64."""

    name = "imagededup PHash"

    def __init__(self) -> None:
        from imagededup import methods as peers

        self._method = peers.PHash(verbose=False)

    def encode(self, folder: pathlib.Path) -> Encodings:
        """Hashes, in as many processes as there are cores (its default)."""
        found: Encodings = self._method.encode_images(image_dir=folder)
        return found

    def scores(self, encodings: Encodings, pair_set: pairs.PairSet) -> evaluation.Scores:
        """In 0…1."""
        distance = self._method.hamming_distance
        return np.array(
            [1 - distance(encodings[pair.a], encodings[pair.b]) / _HASH_BITS for pair in pair_set.pairs]
        )


class CNN:
    """imagededup's cosine of one network's features: of layer4 of the same ResNet50."""

    name = "imagededup CNN (ResNet50)"

    def __init__(self, source: weights.Weights) -> None:
        from imagededup import methods as peers
        from imagededup import utils

        network = torchvision.models.resnet50(weights=None)
        network.load_state_dict(source.state, strict=False)
        self._threads = torch.get_num_threads()
        network.fc = torch.nn.Identity()
        transform = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
        self._method = peers.CNN(
            verbose=False, model_config=utils.CustomModel("resnet50", network.eval(), transform)
        )

    def encode(self, folder: pathlib.Path) -> Encodings:
        """Features, in its batches of 64, by as many threads as torch took at the start."""
        torch.set_num_threads(self._threads)
        found: Encodings = self._method.encode_images(image_dir=folder)
        return found

    def scores(self, encodings: Encodings, pair_set: pairs.PairSet) -> evaluation.Scores:
        """In −1…1."""
        left, right = _sides(encodings, pair_set)
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosines: evaluation.Scores = (left * right).sum(axis=1) / norms
        return cosines


class ListingDedup:
    """This project: decoding in threads, micro-batches, the bundle's pair classifier, as its workers run them."""

    name = "listing-dedup"

    def __init__(self, source: weights.Weights) -> None:
        device = embedding.choose_device("auto")
        self._streams = embedding.share_cores(None, device)
        self._threads = torch.get_num_threads()
        backbone = embedding.Backbone(source, device)
        self._batch_size = backbone.batch_size
        self._in_flight = embedding.photos_in_flight(None, device)
        self.bundle = bundle.for_backbone(backbone.weights_sha256)
        self._embedder = embedding.Embedder(backbone, self.bundle.fusion)
        self._config = settings.Settings()

    def encode(self, folder: pathlib.Path) -> Encodings:
        """Fused embeddings, rounded as the database keeps them."""
        torch.set_num_threads(self._threads)
        config = self._config
        batcher = batching.Batcher(
            self._embedder.embed, self._batch_size, config.embed_batch_wait_seconds, self._streams
        )
        files = sorted(folder.iterdir())
        with concurrent.futures.ThreadPoolExecutor(self._in_flight) as pool:
            vectors = list(pool.map(lambda file: batcher.embed(self._pixels(file)), files))
        batcher.close()
        return {
            file.name: vector.astype(np.float16).astype(np.float32)
            for file, vector in zip(files, vectors, strict=True)
        }

    def _pixels(self, file: pathlib.Path) -> images.Pixels:
        limit = self._config.max_photo_pixels
        return images.decode(file.read_bytes(), size=self.bundle.input_size, max_pixels=limit).pixels

    def scores(self, encodings: Encodings, pair_set: pairs.PairSet) -> evaluation.Scores:
        """Probabilities."""
        return self.bundle.classifier.score(*_sides(encodings, pair_set)).astype(np.float64)


def _sides(encodings: Encodings, pair_set: pairs.PairSet) -> tuple[Any, Any]:
    return (
        np.stack([encodings[pair.a] for pair in pair_set.pairs]),
        np.stack([encodings[pair.b] for pair in pair_set.pairs]),
    )


def few(pair_set: pairs.PairSet, pictures: int | None) -> pairs.PairSet:
    """The first pairs, on at most so many pictures."""
    chosen: list[pairs.Pair] = []
    seen: set[str] = set()
    for pair in pair_set.pairs:
        if pictures is None or len(seen | {pair.a, pair.b}) <= pictures:
            seen |= {pair.a, pair.b}
            chosen.append(pair)
    return dataclasses.replace(pair_set, pairs=tuple(chosen))


def measure(
    peer: Peer, threshold: float | None, pair_set: pairs.PairSet, pictures: int | None
) -> results.Row:
    """One row: a peer on one set. `threshold` None: the best one on the val pairs."""
    parts = {split: few(pair_set.of(split), pictures) for split in ("val", "test")}
    with tempfile.TemporaryDirectory() as folder:
        # imagededup takes whole folders; links cost nothing and are timed with nobody.
        for split in parts.values():
            for path in split.pictures:
                link = pathlib.Path(folder) / split.pairs[0].split / path.name
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(path.resolve())
        started = time.perf_counter()
        encodings = peer.encode(pathlib.Path(folder) / "test")
        encoded = time.perf_counter()
        scores = peer.scores(encodings, parts["test"])
        decided = time.perf_counter()
        if threshold is None:
            val = parts["val"]
            known = peer.encode(pathlib.Path(folder) / "val")
            threshold, _ = evaluation.best_f1(peer.scores(known, val), methods.labels(val))
    labels = methods.labels(parts["test"])
    return {
        "set": pair_set.name,
        "peer": peer.name,
        "pictures": len(parts["test"].pictures),
        "pictures_per_s": round(len(parts["test"].pictures) / (encoded - started), 2),
        "pairs": len(labels),
        "pairs_per_s": round(len(labels) / (decided - encoded)),
        "threshold": round(threshold, 4),
        "f1": round(evaluation.f1_at(scores, labels, threshold), 4),
        "average_precision": round(evaluation.average_precision(scores, labels), 4),
    }


def drawn_sets(folder: pathlib.Path) -> Iterator[pairs.PairSet]:
    """A drawn pair set whose train pairs stand in for the test pairs."""
    made = drawn.write(folder / "drawn", 16, seed=7)
    renamed = tuple(
        dataclasses.replace(pair, split="test" if pair.split == "train" else pair.split)
        for pair in made.pairs
    )
    yield dataclasses.replace(made, pairs=renamed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", nargs="*", type=pathlib.Path, help="labelled pair sets")
    parser.add_argument("--weights", default=settings.Settings().backbone_weights)
    parser.add_argument("--pictures", type=int, help="at most so many of each set")
    parser.add_argument("--quick", action="store_true", help="40 pictures of each set")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args(arguments)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", RuntimeWarning)
        source = weights.load(options.weights)
        sets = [pairs.read(path) for path in options.bench] or drawn_sets(pathlib.Path(folder))
        # Ours last: it parts torch's threads among its streams.
        theirs: list[Peer] = [PHash(), CNN(source)]
        ours = ListingDedup(source)
        peers: list[tuple[Peer, float | None]] = [
            *((peer, None) for peer in theirs),
            (ours, ours.bundle.decision),
        ]
        pictures = 40 if options.quick else options.pictures
        rows = [measure(peer, threshold, one, pictures) for one in sets for peer, threshold in peers]
    results.write(
        "peers",
        rows,
        as_json=options.json,
        by=(
            "set",
            "peer",
        ),
        value="f1",
    )


if __name__ == "__main__":
    main()
