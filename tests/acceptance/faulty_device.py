"""`dedup`, except that the device is lost, hangs in a forward pass, or lacks the model, while a file says so."""

from __future__ import annotations

import os
import pathlib
import threading

import torch

from core import embedding, images
from core import fusing as core_fusing
from workers import cli, embedders, processes

FILE = "FAULTY_DEVICE_TEST_FILE"
"""Environment variable: path of the file; it holds `lost` (once), `hangs` or `unfit` (until it is gone)."""

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

    def check_active(self: embedders.Embedders, model_id: str | None) -> None:
        # Not at its start, when it would take no task at all.
        late = threading.current_thread() is not threading.main_thread()
        if late and file.exists() and file.read_text(encoding="ascii") == "unfit":
            raise processes.UnfitProcessError(f"The active model {model_id}: its weights are missing.")

    embedders.Embedders.check_active = check_active  # type: ignore[method-assign]
    embedding.Embedder.embed = faulty  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    main()
