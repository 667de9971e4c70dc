"""Ways from JPEG bytes to the network's pixels side by side: speed, and what they do to pixels and vectors.

``python -m benchmarks.decode [--photos FOLDER] [--weights FILE] [--device cuda] [--quick] [--json]``: JPEGs of several
sizes, drawn or of the JPEGs in a folder, enlarged; milliseconds of one core. The drift is against the full picture
resized by torch: pixels in levels of 255, vectors as the least cosine of `core.embedding` with these weights, untrained
by default. On a GPU with nvJPEG beside them, all of a size in one call.
"""

from __future__ import annotations

import argparse
import functools
import io
import pathlib
from collections.abc import Callable

import numpy as np
import torch
import torchvision
from PIL import Image

from benchmarks import forward, pictures, results, speed
from core import bundle, embedding, fusing, images, weights

SIZES = ((640, 480), (1280, 853), (1632, 1224), (2048, 1536), (3584, 2688), (4000, 3000), (6000, 4000))
"""The fifth is the smallest that is decoded at half."""
_SIDE = forward.SIZE

Way = Callable[[list[bytes]], list[images.Pixels]]


def _each(one: Callable[[bytes], images.Pixels]) -> Way:
    return lambda coded: [one(data) for data in coded]


def _ours(data: bytes) -> images.Pixels:
    return images.decode(data, size=_SIDE, max_pixels=10**8).pixels


def _pillow(data: bytes) -> images.Pixels:
    resized = Image.open(io.BytesIO(data)).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def _scaled(data: bytes, times: int) -> images.Pixels:
    """By torch, of what Pillow decodes at a fraction, at least so many times the input's size."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (times * _SIDE, times * _SIDE))
    return images.stretched(np.array(image.convert("RGB")), _SIDE)


def _torchvision(coded: list[bytes], device: str = "cpu") -> list[images.Pixels]:
    raw = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in coded]
    colours = torchvision.io.ImageReadMode.RGB
    decoded = torchvision.io.decode_jpeg(raw, mode=colours, device=device)
    # Only on CPUs does torch resize bytes; elsewhere by floating point.
    kind = torch.uint8 if device == "cpu" else torch.float32
    resize = functools.partial(
        torch.nn.functional.interpolate, size=(_SIDE, _SIDE), mode="bilinear", antialias=True
    )
    resized = [resize(one.unsqueeze(0).to(kind)) for one in decoded]
    return [one[0].round().to(torch.uint8).cpu().numpy() for one in resized]


def ways(device: str) -> dict[str, Way]:
    """By name; the first is what the others are held against."""
    found: dict[str, Way] = {
        "Pillow, full": _each(functools.partial(_scaled, times=1000)),
        "core.images": _each(_ours),
        "Pillow, scaled to twice the input": _each(functools.partial(_scaled, times=2)),
        "Pillow, scaled to four times the input": _each(functools.partial(_scaled, times=4)),
        "Pillow, full, resized by Pillow": _each(_pillow),
        "torchvision.io": _torchvision,
    }
    if device.startswith("cuda"):
        found["nvJPEG"] = functools.partial(_torchvision, device=device)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--photos", type=pathlib.Path, help="folder of JPEGs to enlarge; drawn rooms without it"
    )
    parser.add_argument("--weights", default=weights.UNTRAINED)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args(arguments)
    device = embedding.choose_device(options.device)
    torch.set_num_threads(1)
    source = weights.load(options.weights)
    backbone = embedding.Backbone(source, device)
    embedder = embedding.Embedder(backbone, bundle.for_backbone(backbone.weights_sha256).fusion)
    known = ways(device)
    rows: list[dict[str, object]] = []
    for size in SIZES:
        coded = pictures.jpegs(2 if options.quick else 8, size, options.photos)
        works = {name: functools.partial(_work, way, coded) for name, way in known.items()}
        found = speed.compare(works, 3 if options.quick else 9)
        pixels = {name: np.stack(way(coded)) for name, way in known.items()}
        vectors = {name: embedder.embed(values) for name, values in pixels.items()}
        first = next(iter(known))
        rows += [
            {
                "size": f"{size[0]}×{size[1]}",
                "way": name,
                "pictures": "photos" if options.photos else "drawn",
                "weights": source.name,
                **found[name].row(),
                "mean_pixel_drift": round(
                    float(np.abs(pixels[name] - pixels[first].astype(float)).mean()), 3
                ),
                "least_cosine": round(_least_cosine(vectors[name], vectors[first]), 5),
            }
            for name in known
        ]
    name = "decode-photos" if options.photos else "decode"
    name += "-gpu" if device.startswith("cuda") else ""
    results.write(name, rows, as_json=options.json)
    if not options.json:
        labels = [f"{row['size']} {row['way']}" for row in rows]
        results.plot(
            name, labels, [1000 / float(str(row["cpu_ms_per_photo"])) for row in rows], "photos a core second"
        )


def _work(way: Way, coded: list[bytes]) -> int:
    return len(way(coded))


def _least_cosine(a: fusing.Vectors, b: fusing.Vectors) -> float:
    return float((fusing.unit(a) * fusing.unit(b)).sum(axis=1).min())


if __name__ == "__main__":
    main()
