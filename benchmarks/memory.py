"""Memory of what an embed worker holds while 4,000 × 3,000 photos are in flight: RSS over the rounds.

``python -m benchmarks.memory [--quick] [--json]`` for the kinds of photo one after the other in one process: JPEG,
progressive JPEG, PNG. Decoding, the micro-batcher, the forward pass; no broker, store or database.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import pathlib

from benchmarks import forward, pictures, results
from core import budgets, bundle, embedding, images, settings
from workers import batching

SIZE = (4000, 3000)


def resident_mb() -> int:
    """Of this process now, in 10^6 bytes."""
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 // 10**6


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args(arguments)
    budgets.limit_arenas()
    kinds = {
        "JPEG": pictures.jpegs(1, SIZE)[0],
        "progressive JPEG": pictures.jpegs(1, SIZE, progressive=True)[0],
        "PNG": pictures.jpegs(1, SIZE, image_format="PNG")[0],
    }
    device = embedding.choose_device("cpu")
    streams = embedding.share_cores(None, device)
    backbone = forward.backbone(device, "auto", "auto")
    backbone.warm_up(forward.SIZE, backbone.batch_size)
    embedder = embedding.Embedder(backbone, bundle.for_backbone(backbone.weights_sha256).fusion)
    batcher = batching.Batcher(embedder.embed, backbone.batch_size, 0.0, streams)
    in_flight = settings.Settings.model_fields["embed_concurrency"].default
    rows: list[dict[str, object]] = []

    def one(data: bytes) -> None:
        # Each photo in flight has bytes of its own.
        own = bytes(bytearray(data))
        batcher.embed(images.decode(own, size=forward.SIZE, max_pixels=10**8).pixels)

    with concurrent.futures.ThreadPoolExecutor(in_flight) as threads:
        for number in range(2 if options.quick else 8):
            for kind, data in kinds.items():
                for _ in threads.map(one, [data] * in_flight):
                    pass
                rows.append(
                    {"round": number, "kind": kind, "in_flight": in_flight, "resident_mb": resident_mb()}
                    | {"peak_mb_so_far": _status("VmHWM")}
                )
    batcher.close()
    results.write("memory", rows, as_json=options.json)


if __name__ == "__main__":
    main()
