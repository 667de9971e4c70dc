"""`dedup`, except that the device is lost, or hangs, in a forward pass while a file says so."""

from __future__ import annotations

import os
import pathlib
import threading

import torch

from core import embedding, images
from core import fusing as core_fusing
from workers import cli

FILE = "FAULTY_DEVICE_TEST_FILE"
"""Environment variable: path of the file; it holds `lost` (once) or `hangs` (until it is gone)."""

_LOOK_SECONDS = 0.05


def main() -> None:
    """Run the command line on such a device."""
    file = pathlib.Path(os.environ[FILE])
    embed = embedding.Embedder.embed

    def faulty(self: embedding.Embedder, pixels: images.Pixels) -> core_fusing.Vectors:
        fault = file.read_text(encoding="ascii") if file.exists() else ""
        if fault == "lost":
            file.unlink()
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        while fault == "hangs" and file.exists():
            threading.Event().wait(_LOOK_SECONDS)
        return embed(self, pixels)

    embedding.Embedder.embed = faulty  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    main()
