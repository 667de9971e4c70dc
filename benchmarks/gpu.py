"""All GPU parts of the benchmarks: ``python -m benchmarks.gpu [--quick] [--json]``, or `make bench-gpu`."""

from __future__ import annotations

import argparse
import sys

import torch

from benchmarks.__main__ import run


def main() -> int:
    """Run them one after the other; each keeps its own CSV and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="each in short")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    parser.parse_args()
    if not torch.cuda.is_available():
        print("No CUDA device can be used here; run this on a machine with one.", file=sys.stderr)
        return 1
    for name in ("forward", "vectors", "decode", "pipeline"):
        run(name, "--device", "cuda", *sys.argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
