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
from workers import metrics

Pixels = npt.NDArray[np.uint8]
Vectors = npt.NDArray[np.float32]
_PATIENCE_SECONDS = 300.0
_Item = tuple[Pixels, "concurrent.futures.Future[Vectors]", float]


class Batcher:
    """Collects single photos from many threads and embeds them in batches, on one thread for each of the `streams`.

    A free stream takes what waits, and begins: photos that come meanwhile are the next batch, so batches grow with the
    load by themselves. With `wait_seconds` a batch's first photo waits at most that long for company. A photo on which
    the forward pass fails, fails alone: its batch is embedded again one by one.

    What waits is one picture for each thread that calls `embed`, no more: the callers bound it.
    """

    def __init__(
        self,
        embed: Callable[[Pixels], Vectors],
        batch_size: int,
        wait_seconds: float,
        streams: int = 1,
    ) -> None:
        self._embed = embed
        self._batch_size = batch_size
        self._wait_seconds = wait_seconds
        self._waiting: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._collecting = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"batcher-{number}", daemon=True)
            for number in range(streams)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads without which nothing is embedded."""
        return self._threads

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
        self._waiting.put((pixels, future, time.perf_counter()))
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
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while batch := self._collected():
            now = time.perf_counter()
            metrics.BATCH_FILL.observe(len(batch) / self._batch_size)
            for _, _, since in batch:
                metrics.STAGE.labels("wait").observe(now - since)
            self._embed_together(batch)

    def _collected(self) -> list[_Item]:
        """The next batch; empty when it is all over. One stream at a time, or two would share what makes one batch."""
        with self._collecting:
            batch: list[_Item] = []
            deadline = 0.0
            while not self._closed and len(batch) < self._batch_size:
                try:
                    wait = max(0.0, deadline - time.monotonic()) if batch else None
                    item = self._waiting.get(timeout=wait)
                except queue.Empty:
                    break
                if item is None:
                    self._closed = True
                    break
                if not batch:
                    deadline = time.monotonic() + self._wait_seconds
                batch.append(item)
            return batch

    def _embed_together(self, batch: list[_Item]) -> None:
        try:
            with metrics.stage("forward"):
                vectors = self._embed(np.stack([pixels for pixels, _, _ in batch]))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for item in batch:
                self._embed_together([item])
            return
        for (_, future, _), vector in zip(batch, vectors, strict=True):
            future.set_result(vector)
