from __future__ import annotations

import concurrent.futures
import threading

import numpy as np
import pytest

from core import errors
from workers import batching


def picture(value: int) -> batching.Pixels:
    return np.full((3, 4, 4), value, dtype=np.uint8)


class Recorder:
    """Embeds a picture as its own value; remembers the batches; fails on 13, gives NaN for 99."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, pixels: batching.Pixels) -> batching.Vectors:
        self.gate.wait()
        self.batches.append(len(pixels))
        values = pixels[:, 0, 0, 0].astype(np.float32)
        if 13 in values:
            raise ValueError("thirteen")
        values[values == 99] = np.nan
        return values[:, None]


def run(batcher: batching.Batcher, values: list[int]) -> list[concurrent.futures.Future[batching.Vectors]]:
    with concurrent.futures.ThreadPoolExecutor(len(values)) as pool:
        return [pool.submit(batcher.embed, picture(value)) for value in values]


def test_concurrent_photos_share_batches_and_get_their_own_vectors() -> None:
    recorder = Recorder()
    batcher = batching.Batcher(recorder, batch_size=8, wait_seconds=0.5)
    results = [future.result()[0] for future in run(batcher, list(range(1, 9)))]
    batcher.close()
    assert results == list(range(1, 9))
    assert max(recorder.batches) > 1
    assert sum(recorder.batches) == 8


def test_a_batch_is_never_larger_than_said() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    batcher = batching.Batcher(recorder, batch_size=4, wait_seconds=0.2)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        futures = [pool.submit(batcher.embed, picture(value)) for value in range(10)]
        recorder.gate.set()
        assert sorted(int(future.result()[0]) for future in futures) == list(range(10))
    batcher.close()
    assert max(recorder.batches) <= 4


def test_one_photo_that_breaks_the_pass_fails_alone() -> None:
    batcher = batching.Batcher(Recorder(), batch_size=8, wait_seconds=0.5)
    good, bad, other = run(batcher, [1, 13, 2])
    batcher.close()
    assert (good.result()[0], other.result()[0]) == (1, 2)
    with pytest.raises(ValueError, match="thirteen"):
        bad.result()


def test_a_vector_that_is_not_finite_is_this_photos_permanent_error() -> None:
    batcher = batching.Batcher(Recorder(), batch_size=8, wait_seconds=0.2)
    good, bad = run(batcher, [1, 99])
    batcher.close()
    assert good.result()[0] == 1
    with pytest.raises(errors.PermanentError) as caught:
        bad.result()
    assert caught.value.reason == "not_finite"


def test_closing_finishes_what_waits() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    batcher = batching.Batcher(recorder, batch_size=1, wait_seconds=0.0)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(batcher.embed, picture(value)) for value in range(3)]
        recorder.gate.set()
        concurrent.futures.wait(futures)
    batcher.close()
    assert sum(recorder.batches) == 3


def test_streams_embed_side_by_side_and_every_photo_gets_its_own_vector() -> None:
    both = threading.Barrier(2, timeout=60)

    def embed(pixels: batching.Pixels) -> batching.Vectors:
        # Passes only when a second batch is in its pass at the same time.
        both.wait()
        return pixels[:, 0, 0, 0].astype(np.float32)[:, None]

    batcher = batching.Batcher(embed, batch_size=1, wait_seconds=0.0, streams=2)
    results = [future.result()[0] for future in run(batcher, [1, 2, 3, 4])]
    batcher.close()
    assert results == [1, 2, 3, 4]


def test_photos_that_come_during_a_pass_are_the_next_batch() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    batcher = batching.Batcher(recorder, batch_size=8, wait_seconds=0.0)
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        first = pool.submit(batcher.embed, picture(0))
        while not batcher._waiting.empty():
            pass
        later = [pool.submit(batcher.embed, picture(value)) for value in range(1, 9)]
        while batcher._waiting.qsize() < 8:
            pass
        recorder.gate.set()
        assert [int(future.result()[0]) for future in [first, *later]] == list(range(9))
    batcher.close()
    assert recorder.batches == [1, 8]
