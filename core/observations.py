"""What core notices beside its work, told to whoever measures it once it is certain: after its transaction's commit.

So a count never holds what was rolled back, and core knows nothing of how, or whether, anything is measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class PhotoEmbedded:
    """A photo's embeddings are on record. `age_seconds`: since its upload, by the database's clock."""

    age_seconds: float


@dataclasses.dataclass(frozen=True)
class PhotoMatched:
    """A photo was compared with its property's others. `age_seconds`: since its upload, by the database's clock."""

    age_seconds: float


@dataclasses.dataclass(frozen=True)
class PhotoFailed:
    """A photo was parked with this reason."""

    reason: str


@dataclasses.dataclass(frozen=True)
class FlagsChanged:
    """How many flags of a property are new, are gone, and say something else than before."""

    added: int
    removed: int
    changed: int


@dataclasses.dataclass(frozen=True)
class PairsScored:
    """(n,) probabilities of duplicate that a model gave to a photo and its neighbours."""

    model_id: str
    scores: npt.NDArray[np.float32]


Observation = PhotoEmbedded | PhotoMatched | PhotoFailed | FlagsChanged | PairsScored
Listener = Callable[[Observation], None]

_listeners: list[Listener] = []


class _Open(threading.local):
    """What the transactions of this thread have noticed, the innermost one last."""

    def __init__(self) -> None:
        self.noticed: list[list[Observation]] = []


_open = _Open()


def listen(listener: Listener) -> None:
    """Tell a listener of everything from here on, in the thread in which it happened. It must not raise."""
    if listener not in _listeners:
        _listeners.append(listener)


def tell(observation: Observation) -> None:
    """Note an observation: listeners hear of it when the thread's transaction has committed, or now outside of one."""
    if _open.noticed:
        _open.noticed[-1].append(observation)
    else:
        _pass_on(observation)


@contextlib.contextmanager
def until_certain() -> Iterator[None]:
    """Hold back what a block tells until it has ended; forget it if the block raises."""
    noticed: list[Observation] = []
    _open.noticed.append(noticed)
    try:
        yield
    finally:
        _open.noticed.pop()
    for observation in noticed:
        _pass_on(observation)


def _pass_on(observation: Observation) -> None:
    for listener in _listeners:
        listener(observation)
