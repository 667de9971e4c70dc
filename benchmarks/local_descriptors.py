"""What local descriptors would add to the decision: 7 × 7 cells of layer2 and layer3 beside the levels' averages.

``python -m benchmarks.local_descriptors BENCH --weights FILE``. An averaged level cannot tell where things stand, and
that is what a room from another angle and a redrawn plan have in common. Here each photo keeps 49 descriptors of a
level, projected by PCA (fitted on train pictures) and whitened; a pair is described by how well its cells find each
other. Plans are turned by quarters in a rescan: with ``--turned plans`` their descriptors are averaged over the four
turns, each turned back into place. Leave-houses-out
over train and val (5 folds by property), so every figure is on unseen houses; test is not read.
"""

from __future__ import annotations

import argparse
import pathlib
import warnings

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import results
from core import embedding, images, weights
from core.learning import evaluation, pairs

GRID = 7
CELLS = GRID * GRID
LOCAL = {"layer2": 64, "layer3": 64}
FOLDS = 5
Floats = npt.NDArray[np.float32]
Columns = dict[str, Floats]


def describe(
    backbone: embedding.Backbone, paths: list[pathlib.Path], train: set[pathlib.Path], turns: int
) -> tuple[Floats, Columns]:
    """Averages of all levels (n, 3904), and per local level its projected, whitened cells (n, 49, dims)."""
    averages: list[Floats] = []
    cells: dict[str, list[Floats]] = {name: [] for name in LOCAL}
    taken: dict[str, torch.Tensor] = {}
    # The taps are what the backbone runs; a hook sees their maps before they are averaged.
    for name, tap in zip(embedding.LEVELS, backbone._taps, strict=True):
        if name in LOCAL:
            tap.register_forward_hook(lambda _m, _i, out, name=name: taken.update({name: out}))
    for start in range(0, len(paths), 16):
        batch = [
            images.decode(path.read_bytes(), size=224, max_pixels=10**8).pixels
            for path in paths[start : start + 16]
        ]
        seen = np.zeros((len(batch), sum(embedding.LEVELS.values())), dtype=np.float32)
        grids = dict.fromkeys(LOCAL, torch.zeros(()))
        for turn in range(turns):
            seen += backbone.pool(np.ascontiguousarray(np.rot90(np.stack(batch), turn, axes=(2, 3)))) / turns
            for name in LOCAL:
                grid = torch.nn.functional.adaptive_avg_pool2d(taken[name], GRID)
                grids[name] = grids[name] + torch.rot90(grid, -turn, dims=(2, 3)) / turns
        averages.append(seen)
        for name, grid in grids.items():
            cells[name].append(grid.flatten(2).transpose(1, 2).half().cpu().numpy())
    projected = {}
    fitted = np.array([path in train for path in paths])
    for name, dims in LOCAL.items():
        values = np.concatenate(cells.pop(name)).astype(np.float32)
        sample = values[fitted][:: max(1, int(fitted.sum()) // 400)].reshape(-1, values.shape[2])
        mean = sample.mean(axis=0)
        variance, axes = np.linalg.eigh(np.cov((sample - mean).T))
        whitening = axes[:, ::-1][:, :dims] / np.sqrt(variance[::-1][:dims])
        local = (values - mean) @ whitening.astype(np.float32)
        projected[name] = local / np.maximum(np.linalg.norm(local, axis=2, keepdims=True), 1e-9)
    return np.concatenate(averages), projected


def level_columns(averages: Floats, left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> Columns:
    """Cosine of each standardised level."""
    fusion = embedding.Fusion(tuple(embedding.LEVELS), averages.mean(axis=0), averages.std(axis=0) + 1e-6)
    fused = fusion.fuse(averages) * np.sqrt(len(embedding.LEVELS))
    return {
        name: (fused[left, part] * fused[right, part]).sum(axis=1) for name, part in fusion.slices.items()
    }


def cell_columns(
    name: str, cells: Floats, left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> Columns:
    """How well the cells of two photos find each other, in any place and in a common displacement."""
    row, column = np.divmod(np.arange(CELLS), GRID)
    found: dict[str, list[Floats]] = {}
    for start in range(0, len(left), 400):
        one, other = cells[left[start : start + 400]], cells[right[start : start + 400]]
        likeness = one @ other.transpose(0, 2, 1)
        there, back = likeness.max(axis=2), likeness.max(axis=1)
        target = likeness.argmax(axis=2)
        mutual = np.take_along_axis(likeness.argmax(axis=1), target, axis=1) == np.arange(CELLS)
        weight = np.maximum(there, 0) * mutual
        votes, in_place, near = [], [], []
        neighbourhood = torch.nn.functional.max_pool2d(
            torch.from_numpy(likeness).view(-1, CELLS, GRID, GRID), 3, 1, 1
        )
        around = neighbourhood.flatten(2).numpy()
        for turned_row, turned_column in (
            (row, column),
            (column, GRID - 1 - row),
            (GRID - 1 - row, GRID - 1 - column),
            (GRID - 1 - column, row),
        ):
            box = (row[target] - turned_row + 12) * 25 + column[target] - turned_column + 12
            ballot = np.zeros((len(there), 625), dtype=np.float32)
            np.add.at(ballot, (np.arange(len(there))[:, None], box), weight)
            blurred = torch.nn.functional.avg_pool2d(torch.from_numpy(ballot).view(-1, 1, 25, 25), 3, 1, 1)
            votes.append(blurred.flatten(1).max(dim=1).values.numpy() * 9 / CELLS)
            cell = turned_row * GRID + turned_column
            in_place.append(likeness[:, np.arange(CELLS), cell].mean(axis=1))
            near.append(around[:, np.arange(CELLS), cell].mean(axis=1))
        vote, place, beside = (np.sort(side, axis=0)[::-1] for side in (votes, in_place, near))
        best = [np.sort(side, axis=1)[:, ::-1] for side in (there, back)]
        for key, value in {
            "mean": (there.mean(axis=1) + back.mean(axis=1)) / 2,
            "best_half": sum(side[:, : CELLS // 2].mean(axis=1) for side in best) / 2,
            "best_fifth": sum(side[:, : CELLS // 5].mean(axis=1) for side in best) / 2,
            "lesser_side": np.minimum(there.mean(axis=1), back.mean(axis=1)),
            "mutual": weight.sum(axis=1) / CELLS,
            "displaced": vote[0],
            "displaced_lead": vote[0] - vote[1],
            "in_place": place[0],
            "in_place_lead": place[0] - place[1],
            "near_place": beside[0],
            "near_place_lead": beside[0] - beside[1],
        }.items():
            found.setdefault(f"{name}_{key}", []).append(np.asarray(value, dtype=np.float32))
    return {key: np.concatenate(values) for key, values in found.items()}


def fit(inputs: Floats, duplicate: npt.NDArray[np.bool_], hidden: int = 12) -> torch.nn.Module:
    """A small decision network on standardised inputs, full-batch."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(inputs.shape[1], hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 1)
    )
    values, target = torch.from_numpy(inputs), torch.from_numpy(duplicate.astype(np.float32))
    optimiser = torch.optim.LBFGS(network.parameters(), max_iter=150)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(values)[:, 0], target)
        loss = loss + 1e-3 * sum((weight**2).sum() for weight in network.parameters())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return network


def leave_houses_out(inputs: Floats, rows: list[pairs.Pair]) -> Floats:
    """Scores of all pairs, each by a network that saw neither of its properties."""
    properties = sorted({name for row in rows for name in (row.property_a, row.property_b)})
    np.random.default_rng(1).shuffle(properties)
    fold = {name: number % FOLDS for number, name in enumerate(properties)}
    sides = np.array([(fold[row.property_a], fold[row.property_b]) for row in rows])
    duplicate = np.array([row.duplicate for row in rows])
    scores = np.empty(len(rows), dtype=np.float32)
    for number in range(FOLDS):
        unseen, seen = sides[:, 0] == number, (sides != number).all(axis=1)
        mean, std = inputs[seen].mean(axis=0), inputs[seen].std(axis=0) + 1e-6
        network = fit((inputs[seen] - mean) / std, duplicate[seen])
        with torch.inference_mode():
            scores[unseen] = network(torch.from_numpy((inputs[unseen] - mean) / std))[:, 0].numpy()
    return scores


def main() -> None:
    """Measure the sets below the bench folder, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", type=pathlib.Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--sets", default="angles,plans")
    parser.add_argument("--turned", default="plans", help="sets whose descriptors are averaged over turns")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    backbone = embedding.Backbone(weights.load(options.weights), embedding.choose_device("auto"))
    table: list[dict[str, object]] = []
    for name in options.sets.split(","):
        labelled = pairs.read(options.bench / name)
        rows = [row for row in labelled.pairs if row.split != "test"]
        paths = list(dict.fromkeys(labelled.images / side for row in rows for side in (row.a, row.b)))
        train = {labelled.images / side for row in rows if row.split == "train" for side in (row.a, row.b)}
        turns = 4 if name in options.turned.split(",") else 1
        averages, cells = describe(backbone, paths, train, turns)
        place = {path.name: number for number, path in enumerate(paths)}
        left, right = (np.array([place[getattr(row, side)] for row in rows]) for side in ("a", "b"))
        columns = level_columns(averages, left, right)
        kinds = {"levels": columns}
        for level, local in cells.items():
            kinds[f"levels + {level}"] = columns | cell_columns(level, local, left, right)
        everything: Columns = {}
        for part in kinds.values():
            everything |= part
        kinds["levels + " + " + ".join(cells)] = everything
        duplicate = np.array([row.duplicate for row in rows])
        for kind, part in kinds.items():
            scores = leave_houses_out(np.stack(list(part.values()), axis=1).astype(np.float32), rows)
            table.append(
                {
                    "set": name,
                    "turns": turns,
                    "inputs": kind,
                    "pairs": len(rows),
                    "average_precision": round(evaluation.average_precision(scores, duplicate), 4),
                    "best_f1": round(evaluation.best_f1(scores, duplicate)[1], 4),
                }
            )
    results.write("local_descriptors", table, as_json=options.json)


if __name__ == "__main__":
    main()
