"""Do the forms and precisions of the forward pass give the same vectors? Least cosine to plain fp32 on a CPU.

``python -m benchmarks.vectors [PICTURE_FOLDER] [--weights FILE] [--device cuda] [--quick] [--json]``: of the fused
embeddings of the folder's pictures, by default of drawn ones. Trained weights tell more: untrained ones pass
everything on about alike.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
import torch

from benchmarks import forward, pictures, results
from core import bundle, embedding, fusing, images, weights

_BATCH = 16


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=pathlib.Path, help="of pictures")
    parser.add_argument("--weights", default=weights.UNTRAINED)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--quick", action="store_true", help="16 pictures")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args(arguments)
    device = embedding.choose_device(options.device)
    count = _BATCH if options.quick else 8 * _BATCH
    coded = _coded(options.folder, count)
    pixels = np.stack([images.decode(data, size=forward.SIZE, max_pixels=10**8).pixels for data in coded])
    source = weights.load(options.weights)
    expected = embed(embedding.Backbone(source, "cpu", "plain", "fp32"), pixels)
    rows: list[results.Row] = []
    for form in ("plain", "compiled") if device.startswith("cuda") else ("plain", "fused", "compiled"):
        for precision in ("fp32",) if form == "fused" else ("fp32", "fp16", "bf16"):
            made = embedding.Backbone(source, device, form, precision)  # type: ignore[arg-type]
            made.warm_up(forward.SIZE, _BATCH)
            cosines = (embed(made, pixels) * expected).sum(axis=1)
            rows.append(
                {
                    "weights": source.name,
                    "pictures": len(pixels),
                    "device_kind": device,
                    "form": form,
                    "ran": made.form,
                    "precision": precision,
                    "least_cosine": round(float(cosines.min()), 6),
                    "median_cosine": round(float(np.median(cosines)), 6),
                }
            )
            torch.compiler.reset()
    name = "vectors-gpu" if device.startswith("cuda") else "vectors"
    results.write(name, rows, as_json=options.json, by=("form", "precision"), value="least_cosine")


def embed(made: embedding.Backbone, pixels: images.Pixels) -> fusing.Vectors:
    """(n, dims) of norm 1."""
    embedder = embedding.Embedder(made, bundle.for_backbone(made.weights_sha256).fusion)
    parts = [embedder.embed(pixels[start : start + _BATCH]) for start in range(0, len(pixels), _BATCH)]
    return fusing.unit(np.concatenate(parts))


def _coded(folder: pathlib.Path | None, count: int) -> list[bytes]:
    if folder is None:
        return pictures.jpegs(count, (1280, 853))
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    return [path.read_bytes() for path in files[:: max(1, len(files) // count)][:count]]


if __name__ == "__main__":
    main()
