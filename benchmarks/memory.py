"""Memory of what an embed worker holds while 4,000 × 3,000 photos are in flight: RSS over the rounds.

``python -m benchmarks.memory [--photos N] [--quick] [--json]`` for the kinds of photo one after the other in one
process: JPEG, progressive JPEG, PNG, N of them in all (2,000; with --quick 32 of each kind). Fetching from an S3 in
another process, decoding, the micro-batcher, the forward pass; no broker or database.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import pathlib
import shutil
import tempfile

from benchmarks import forward, pictures, results
from core import budgets, bundle, embedding, images, objects, settings
from workers import batching, embedded_s3

SIZE = (4000, 3000)
_MOST_BYTES = 50_000_000
_SHOWN = 10
"""About so many rounds are put down."""


def resident_mb() -> int:
    """Of this process now, in 10^6 bytes."""
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 // 10**6


def _measure(endpoint_url: str, rounds: int) -> list[results.Row]:
    os.environ |= {
        "AWS_ACCESS_KEY_ID": embedded_s3.ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": embedded_s3.SECRET_ACCESS_KEY,
    }
    device = "cpu"
    in_flight = embedding.photos_in_flight(None, device)
    objects.share_memory(in_flight)
    s3 = objects.client(settings.Settings(s3_endpoint_url=endpoint_url), in_flight)
    kinds = {
        "JPEG": pictures.jpegs(1, SIZE)[0],
        "progressive JPEG": pictures.jpegs(1, SIZE, progressive=True)[0],
        "PNG": pictures.jpegs(1, SIZE, image_format="PNG")[0],
    }
    for kind, data in kinds.items():
        s3.put_object(Bucket="photos", Key=kind, Body=data)
    sizes_mb = {kind: round(len(data) / 1e6, 1) for kind, data in kinds.items()}
    del kinds, data
    budgets.limit_arenas()
    streams = embedding.share_cores(None, device)
    backbone = forward.backbone(device, "auto", "auto")
    backbone.warm_up(forward.SIZE, backbone.batch_size)
    embedder = embedding.Embedder(backbone, bundle.for_backbone(backbone.weights_sha256).fusion)
    batcher = batching.Batcher(embedder.embed, backbone.batch_size, 0.0, streams)

    def one(kind: str) -> None:
        with objects.fetched(s3, "photos", kind, _MOST_BYTES) as found:
            batcher.embed(images.decode(found.data, size=forward.SIZE, max_pixels=10**8).pixels)

    rows: list[results.Row] = []
    with concurrent.futures.ThreadPoolExecutor(in_flight) as threads:
        shown = max(1, rounds // _SHOWN)
        for number in range(rounds):
            for kind, size_mb in sizes_mb.items():
                for _ in threads.map(one, [kind] * in_flight):
                    pass
                if number % shown and number != rounds - 1:
                    continue
                rows.append(
                    {"round": number, "kind": kind, "file_mb": size_mb, "in_flight": in_flight}
                    | {"resident_mb": resident_mb(), "peak_mb_so_far": _status("VmHWM")}
                )
    batcher.close()
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=2_000, help="in all")
    parser.add_argument("--quick", action="store_true", help="96 photos")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args(arguments)
    rounds = 2 if options.quick else max(1, round(options.photos / 48))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dedup-benchmark-"))
    folder.chmod(0o755)
    server = embedded_s3.EmbeddedS3(folder)
    try:
        server.start()
        rows = _measure(server.endpoint_url, rounds)
    finally:
        server.stop()
        shutil.rmtree(folder)
    results.write(
        "memory",
        rows,
        as_json=options.json,
        by=(
            "kind",
            "round",
        ),
        value="resident_mb",
    )


if __name__ == "__main__":
    main()
