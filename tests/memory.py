"""How much memory something takes at its peak, as Linux counts it for this process."""

from __future__ import annotations

import ctypes
import pathlib

_PROCESS = pathlib.Path("/proc/self")


class Peak:
    """From when it is made on. What was freed before, and is kept by the allocator, counts as growth again."""

    def __init__(self) -> None:
        ctypes.CDLL(None).malloc_trim(0)
        # proc(5): 5 resets the peak.
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")
        self._before = _status("VmRSS")

    def bytes(self) -> int:
        """The most that this process has held since, beyond what it held before."""
        return _status("VmHWM") - self._before


def _status(name: str) -> int:
    lines = (_PROCESS / "status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
