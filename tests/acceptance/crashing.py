"""`dedup`, except that decoding a photo with a mark takes the process with it, as a fault in a codec does."""

from __future__ import annotations

import os
import resource

from core import images
from workers import cli

MARK = b"This photo crashes its decoder."


def main() -> None:
    """Run the command line with a decoder that crashes."""
    decode = images.decode

    def crashing(data: bytes, *, size: int, max_pixels: int) -> images.Picture:
        if data.endswith(MARK):
            os.abort()
        return decode(data, size=size, max_pixels=max_pixels)

    # No core file for each of them.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    images.decode = crashing
    cli.main()


if __name__ == "__main__":
    main()
