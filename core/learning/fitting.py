"""Fits the decision network to pairs, and turns its logits into probabilities and thresholds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from core import embedding
from core.learning import network

Progress = Callable[[int, int], None]
"""Called with the rounds done and the rounds in all."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to fit: sizes, rounds over the pairs, AdamW's rate and decay, pairs a step.

    `identical` and `strangers` are numbers of self-labelled pairs made for each labelled one: a picture with
    itself, and pictures of two sets, which never show the same. No labelled set has either, every property does.
    """

    shape: network.Shape = dataclasses.field(default_factory=network.Shape)
    rounds: int = 16
    rate: float = 1e-3
    decay: float = 1e-2
    batch: int = 256
    identical: float = 0.05
    strangers: float = 0.1


@dataclasses.dataclass(frozen=True)
class Table:
    """Pairs as rows of a matrix of embeddings: `left` and `right` are (n,) indices, `duplicate` (n,) bool."""

    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    duplicate: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.left)

    def __add__(self, other: Table) -> Table:
        return Table(
            np.concatenate([self.left, other.left]),
            np.concatenate([self.right, other.right]),
            np.concatenate([self.duplicate, other.duplicate]),
        )


def fit(
    vectors: embedding.Vectors,
    fusion: embedding.Fusion,
    learn: Table,
    watch: Table,
    recipe: Recipe,
    seed: int,
    progress: Progress | None = None,
) -> network.Network:
    """Fit a network on `learn`; keep the round that has the lowest loss on `watch`.

    Args:
        vectors: (pictures, dims) fused embeddings.
        seed: fixes the first weights, the order and the dropout; the same seed gives the same network.
    """
    with one_thread():
        generator = torch.Generator().manual_seed(seed)
        rows = torch.from_numpy(vectors)
        left, right = torch.from_numpy(learn.left), torch.from_numpy(learn.right)
        target = torch.from_numpy(learn.duplicate).float()
        model = network.Network(fusion, recipe.shape, generator)
        sample = torch.randperm(len(learn), generator=generator)[:4096]
        model.standardise(rows[left[sample]], rows[right[sample]])
        optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
        steps = recipe.rounds * -(-len(learn) // recipe.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
        best_loss, best_state = float("inf"), model.state_dict()
        for done in range(recipe.rounds):
            model.train()
            for part in torch.split(torch.randperm(len(learn), generator=generator), recipe.batch):
                logits = model(rows[left[part]], rows[right[part]])
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target[part])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
            found = _loss(logits_of(model, vectors, watch), watch.duplicate)
            if found < best_loss:
                best_loss, best_state = (
                    found,
                    {key: value.clone() for key, value in model.state_dict().items()},
                )
            if progress is not None:
                progress(done + 1, recipe.rounds)
        model.load_state_dict(best_state)
        return model.eval()


@torch.no_grad()
def logits_of(model: network.Network, vectors: embedding.Vectors, table: Table) -> npt.NDArray[np.float64]:
    """(n,) logits of the pairs of a table."""
    model.eval()
    rows = torch.from_numpy(vectors)
    left, right = torch.from_numpy(table.left), torch.from_numpy(table.right)
    parts = [
        model(rows[left[start : start + 512]], rows[right[start : start + 512]])
        for start in range(0, len(table), 512)
    ]
    result: npt.NDArray[np.float64] = torch.cat(parts).double().numpy()
    return result


def calibrate(
    logits: npt.NDArray[np.float64],
    duplicate: npt.NDArray[np.bool_],
    weight: npt.NDArray[np.float64] | None = None,
) -> tuple[float, float]:
    """Slope and offset that turn logits into those of probabilities, by damped Newton steps.

    `weight` is how much each pair counts (1 by default); all are (n,).

    Source: Platt, *Probabilistic Outputs for Support Vector Machines*, 1999, with its smoothed targets.
    """
    positives, negatives = int(duplicate.sum()), int((~duplicate).sum())
    target = np.where(duplicate, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    inputs = np.stack([logits, np.ones_like(logits)], axis=1)
    counts = np.ones_like(logits) if weight is None else weight
    # Starts at, and is held weakly to, "as it is": a watch set of a few pairs cannot turn the scores round.
    start = np.array([1.0, 0.0])

    def cost(weights: npt.NDArray[np.float64]) -> float:
        value = inputs @ weights
        return float(
            counts @ (np.logaddexp(0.0, value) - target * value) + np.sum((weights - start) ** 2) / 2
        )

    weights = start.copy()
    for _ in range(100):
        chance = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        gradient = inputs.T @ (counts * (chance - target)) + (weights - start)
        curvature = (inputs * (counts * chance * (1 - chance))[:, None]).T @ inputs + np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # Where the curve is nearly flat a whole step leads far astray, and the next one farther.
        while cost(weights - step) > cost(weights) and np.abs(step).max() > 1e-9:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return max(float(weights[0]), 1e-3), float(weights[1])


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside: sums over several come out in another order, hence another digest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _loss(logits: npt.NDArray[np.float64], duplicate: npt.NDArray[np.bool_]) -> float:
    return float(np.mean(np.logaddexp(0.0, np.where(duplicate, -logits, logits))))
