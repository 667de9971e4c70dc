"""Fits the decision network to pairs, leaving houses out, and turns its logits into probabilities.

The train splits hold few houses. One network is fitted for each tenth of the properties, to the pairs of the other
nine, and stopped early on that tenth: so each pair has a logit from a network that did not see its house, and these
logits are what calibration, thresholds and every choice rest on. What decides in the end is the mean of the
networks, which side by side are one network (bagging; Breiman, *Bagging Predictors*, 1996).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from core import errors, fusing

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""

Logits = npt.NDArray[np.float64]

_LEAST_STD = 1e-3
_PATIENCE = 4


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to fit: hidden units, weight decay, at most so many rounds of L-BFGS steps, folds of houses.

    `identical` and `strangers` are numbers of self-labelled pairs made for each labelled one: a picture with
    itself, and pictures of two sets without a common property, which never show the same. No labelled set has
    either, every property does.
    """

    hidden: int = 16
    decay: float = 3e-4
    rounds: int = 25
    steps: int = 10
    folds: int = 10
    identical: float = 0.05
    strangers: float = 0.1


@dataclasses.dataclass(frozen=True)
class Examples:
    """n described pairs: `inputs` (n, F) float32, `duplicate` (n,) bool, `counts` (n,) how much each counts.

    `houses` (n, 2) are the properties of the two photos, as numbers.
    """

    inputs: fusing.Vectors
    duplicate: npt.NDArray[np.bool_]
    counts: npt.NDArray[np.float32]
    houses: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: npt.NDArray[np.bool_]) -> Examples:
        return Examples(self.inputs[rows], self.duplicate[rows], self.counts[rows], self.houses[rows])


@dataclasses.dataclass(frozen=True)
class Network:
    """A decision network with one hidden layer; arrays as `classifier.PairClassifier` takes them, in float32."""

    mean: fusing.Vectors
    std: fusing.Vectors
    hidden: fusing.Vectors
    hidden_bias: fusing.Vectors
    output: fusing.Vectors
    output_bias: fusing.Vectors

    def logits(self, inputs: fusing.Vectors) -> Logits:
        """(n,) of (n, F) inputs."""
        standard = (inputs - self.mean) / self.std
        hidden = np.tanh(standard @ self.hidden.T + self.hidden_bias)
        result: Logits = (hidden @ self.output[0] + self.output_bias).astype(np.float64)
        return result

    def tensors(self, slope: float, offset: float) -> dict[str, npt.NDArray[np.generic]]:
        """What a pair classifier is made of, but for the variances."""
        return {
            "input.mean": self.mean,
            "input.std": self.std,
            "hidden.weight": self.hidden,
            "hidden.bias": self.hidden_bias,
            "output.weight": self.output,
            "output.bias": self.output_bias,
            "calibration": np.array([slope, offset], np.float32),
        }


def leave_houses_out(
    examples: Examples, recipe: Recipe, seed: int, progress: Progress | None = None
) -> tuple[Network, Logits]:
    """Fit a network for each fold of the houses.

    Args:
        examples: of at least two houses.
        seed: fixes the folds and the first weights; the same seed gives the same networks on the same machine.

    Returns:
        The mean of the networks, and (n,) logits of each pair by the network that did not see the house of its first
        photo (nor learn from any pair of it). Rounds are chosen on those houses, so the logits are a little too good;
        a nested check of the shipped bundle gave F1 lower by less than 0.01.

    Raises:
        ConfigurationError: there are too few houses.
    """
    generator = torch.Generator().manual_seed(seed)
    sides = _folds(examples, recipe.folds, generator)
    folds = int(sides.max()) + 1
    mean = examples.inputs.mean(axis=0)
    std = np.maximum(examples.inputs.std(axis=0), _LEAST_STD)
    logits = np.empty(len(examples))
    networks = []
    with _one_thread():
        for number in range(folds):
            held, learn = sides[:, 0] == number, (sides != number).all(axis=1)
            if set(examples.duplicate[learn].tolist()) != {True, False}:
                found = f"{int(learn.sum())} pairs are left, {int(examples.duplicate[learn].sum())} of them duplicates"
                raise errors.ConfigurationError(
                    f"Without the houses of one fold {found}: too few to learn what holds for other houses. "
                    "Give pairs of both labels within more properties."
                )
            networks.append(_fit(examples[learn], examples[held], mean, std, recipe, generator))
            logits[held] = networks[-1].logits(examples.inputs[held])
            if progress is not None:
                progress(number + 1, folds)
    return _mean(networks), logits


def calibrate(
    logits: Logits, duplicate: npt.NDArray[np.bool_], weight: npt.NDArray[np.floating] | None = None
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


def _folds(examples: Examples, most: int, generator: torch.Generator) -> npt.NDArray[np.int64]:
    """(n, 2) the folds of both houses; every fold has houses of first photos, which are those that it is tested on."""
    fold = np.empty(int(examples.houses.max()) + 1, np.int64)
    first = np.unique(examples.houses[:, 0])
    folds = max(2, min(most, len(first)))
    for houses in (first, np.setdiff1d(examples.houses[:, 1], first)):
        order = torch.randperm(len(houses), generator=generator).numpy()
        fold[houses[order]] = np.arange(len(houses)) % folds
    return fold[examples.houses]


def _fit(
    learn: Examples,
    held: Examples,
    mean: fusing.Vectors,
    std: fusing.Vectors,
    recipe: Recipe,
    generator: torch.Generator,
) -> Network:
    """The round of the lowest loss on `held`."""
    inputs = learn.inputs.shape[1]
    sizes = ((recipe.hidden, inputs), (recipe.hidden,), (1, recipe.hidden), (1,))
    bounds = (inputs**-0.5, inputs**-0.5, recipe.hidden**-0.5, recipe.hidden**-0.5)
    parameters = [
        ((torch.rand(size, generator=generator) * 2 - 1) * bound).requires_grad_()
        for size, bound in zip(sizes, bounds, strict=True)
    ]
    optimiser = torch.optim.LBFGS(parameters, max_iter=recipe.steps, line_search_fn="strong_wolfe")
    seen, unseen = (_tensors(part, mean, std) for part in (learn, held))

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        size = torch.stack([part.square().sum() for part in parameters]).sum()
        loss = _loss(parameters, *seen) + recipe.decay * size
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    best, best_loss, worse = [part.detach().clone() for part in parameters], float("inf"), 0
    for _ in range(recipe.rounds):
        optimiser.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            loss = float(_loss(parameters, *unseen))
        if loss < best_loss:
            best, best_loss, worse = [part.detach().clone() for part in parameters], loss, 0
        else:
            worse += 1
        if worse == _PATIENCE:
            break
    return Network(mean, std, *(part.numpy() for part in best))


def _loss(
    parameters: Sequence[torch.Tensor], inputs: torch.Tensor, target: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    hidden, hidden_bias, output, output_bias = parameters
    logits = torch.tanh(inputs @ hidden.T + hidden_bias) @ output[0] + output_bias
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * counts).sum() / counts.sum()


def _tensors(
    part: Examples, mean: fusing.Vectors, std: fusing.Vectors
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.from_numpy((part.inputs - mean) / std),
        torch.from_numpy(part.duplicate.astype(np.float32)),
        torch.from_numpy(part.counts),
    )


def _mean(networks: Sequence[Network]) -> Network:
    """The networks side by side: hidden units of all, outputs shared out."""
    share = np.float32(1 / len(networks))
    return Network(
        networks[0].mean,
        networks[0].std,
        np.concatenate([network.hidden for network in networks]),
        np.concatenate([network.hidden_bias for network in networks]),
        np.concatenate([network.output for network in networks], axis=1) * share,
        np.stack([network.output_bias for network in networks]).sum(axis=0) * share,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread inside: sums over several come out in another order, hence another digest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
