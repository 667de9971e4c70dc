"""Micro-batches across concurrent tasks: photos that are ready together share one forward pass."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from core import errors

Pixels = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]
_PATIENCE_SECONDS = 300.0
_Item = tuple[Pixels, "concurrent.futures.Future[Vectors]"]


class Batcher:
    """Collects single photos from many threads and embeds them in batches on one thread.

    The first photo of a batch waits at most `wait_seconds` for company. A photo on which the forward pass
    fails, fails alone: its batch is embedded again one by one.
    """

    def __init__(self, embed: Callable[[Pixels], Vectors], batch_size: int, wait_seconds: float) -> None:
        self._embed = embed
        self._batch_size = batch_size
        self._wait_seconds = wait_seconds
        self._waiting: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def thread(self) -> threading.Thread:
        """The thread without which nothing is embedded."""
        return self._thread

    def embed(self, pixels: Pixels) -> Vectors:
        """Embed one photo; blocks until its batch is done.

        Args:
            pixels: (3, size, size) uint8.

        Returns:
            (dims,) float32.

        Raises:
            PermanentError: ``not_finite``: the network gives no number for this picture.
        """
        future: concurrent.futures.Future[Vectors] = concurrent.futures.Future()
        self._waiting.put((pixels, future))
        try:
            vector = future.result(_PATIENCE_SECONDS)
        except TimeoutError as error:
            raise errors.TransientError(
                f"No embedding within {_PATIENCE_SECONDS:.0f} s of waiting for the batch."
            ) from error
        if not np.isfinite(vector).all():
            raise errors.PermanentError(
                "not_finite", "The backbone gives no finite embedding for this photo."
            )
        return vector

    def close(self) -> None:
        """Finish what waits, then stop."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            deadline = time.monotonic() + self._wait_seconds
            last = False
            while len(batch) < self._batch_size:
                try:
                    item = self._waiting.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    break
                if item is None:
                    last = True
                    break
                batch.append(item)
            self._embed_together(batch)
            if last:
                return

    def _embed_together(self, batch: list[_Item]) -> None:
        try:
            vectors = self._embed(np.stack([pixels for pixels, _ in batch]))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for item in batch:
                self._embed_together([item])
            return
        for (_, future), vector in zip(batch, vectors, strict=True):
            future.set_result(vector)
