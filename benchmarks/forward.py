"""The raw forward pass: the limit of everything. Forms of the network, precisions, streams and batches side by side.

``python -m benchmarks.forward [--device cuda] [--quick] [--json]``. Pixels in memory to pooled levels and cells, no
fusion, no decoding. Untrained weights: the speed does not depend on what they know. The forms are compared in turns
within one run; `threads` are those of each stream. With --quick, torch.compile is left out on a CPU, where it takes a
minute to begin.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import warnings

import numpy as np
import torch

from benchmarks import results, speed
from core import embedding, images, resnet, weights

SIZE = 224
TORCHVISION = "torchvision"
"""The network as torchvision runs it, not folded: what was there before anything was made faster."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to run the network."""

    form: str
    precision: embedding.Precision
    streams: int
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.form} {self.precision}, {self.streams} × {self.threads} threads, batch {self.batch}"


def settings(device: str, *, quick: bool) -> list[Setting]:
    """What is compared on this device."""
    cores = os.cpu_count() or 1
    found: list[Setting] = []
    if device.startswith("cuda"):
        batches = (64, 256) if quick else (16, 64, 256, 1024)
        for form, precisions in (("plain", ("fp32", "fp16", "bf16")), ("compiled", ("fp16", "bf16"))):
            for precision in precisions:
                found += [Setting(form, precision, 1, cores, batch) for batch in batches]  # type: ignore[arg-type]
                found.append(Setting(form, precision, 2, cores, 256))  # type: ignore[arg-type]
        return found
    half = max(1, cores // 2)
    found = [Setting(form, "fp32", 1, cores, 8) for form in (TORCHVISION, "plain", "fused")]
    found += [
        Setting("fused", "fp32", 2, half, batch) for batch in ((1, 8, 16) if quick else (1, 2, 4, 8, 16, 32))
    ]
    found += [Setting("plain", "fp32", 2, half, 8), Setting(TORCHVISION, "fp32", 2, half, 8)]
    if not quick:
        found += [Setting("compiled", "fp32", 2, half, 16), Setting("compiled", "fp32", 1, cores, 16)]
    return found


def backbone(device: str, form: str, precision: embedding.Precision) -> embedding.Backbone:
    """An untrained backbone in this form."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        source = weights.load(weights.UNTRAINED)
    if form != TORCHVISION:
        return embedding.Backbone(source, device, form, precision)  # type: ignore[arg-type]
    import torchvision

    made = embedding.Backbone(source, device, "plain", precision)
    network = torchvision.models.resnet50(weights=None)
    network.load_state_dict(source.state)
    made._taps = resnet.unfolded(network).to(device)
    return made


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and keep the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, no CSV")
    options = parser.parse_args(arguments)
    device = embedding.choose_device(options.device)
    chosen = {str(setting): setting for setting in settings(device, quick=options.quick)}
    backbones = {
        key: backbone(device, *key) for key in {(s.form, s.precision): None for s in chosen.values()}
    }
    # More batch sizes than torch compiles of one network by default; beyond them it would run it as it is.
    torch._dynamo.config.recompile_limit = 100
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for (form, _), made in backbones.items():
        if form == "compiled":
            made.warm_up(SIZE, max(setting.batch for setting in chosen.values() if setting.form == form))
    least = (2 if options.quick else 8) * (64 if device.startswith("cuda") else 4)
    works = {}
    for name, setting in chosen.items():
        made = backbones[setting.form, setting.precision]
        pixels = np.random.default_rng(0).integers(0, 256, (setting.batch, 3, SIZE, SIZE), dtype=np.uint8)
        works[name] = functools.partial(_work, made, pixels, setting.streams, least)
    found = speed.compare(
        works, 3 if options.quick else 9, lambda name: torch.set_num_threads(chosen[name].threads)
    )
    fastest = max(found.values(), key=lambda each: each.photos_per_s).photos_per_s
    rows = [
        {
            "device_kind": device,
            **dataclasses.asdict(setting),
            # A form that cannot be had here is another one's figure.
            "ran": TORCHVISION
            if setting.form == TORCHVISION
            else backbones[setting.form, setting.precision].form,
            **found[name].row(),
            "ratio_to_fastest": round(found[name].photos_per_s / fastest, 3),
        }
        for name, setting in chosen.items()
    ]
    name = "forward-gpu" if device.startswith("cuda") else "forward"
    results.write(name, rows, as_json=options.json)
    if not options.json:
        results.plot(name, list(found), [each.photos_per_s for each in found.values()], "photos a second")


def once(made: embedding.Backbone, pixels: images.Pixels) -> None:
    """One forward pass, to its end."""
    with made.computing():
        levels, _ = made.pooled(pixels)
        levels.cpu()


def _work(made: embedding.Backbone, pixels: images.Pixels, streams: int, least: int) -> int:
    times = streams * max(1, least // (streams * len(pixels)))
    speed.in_threads(functools.partial(once, made, pixels), streams, times)
    return times * len(pixels)


if __name__ == "__main__":
    main()
