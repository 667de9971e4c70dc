"""The models that an embed process embeds by: those of the database whose backbone weights it has.

Models of one backbone and one input size share the forward pass. The process learns a model when a photo first lacks
it, so one that is put on record while it runs needs no restart.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

import structlog
import torch

from core import (
    budgets,
    bundle,
    database,
    embedding,
    errors,
    fusing,
    images,
    models,
    registry,
    settings,
    weights,
)
from workers import batching, health, processes, traces

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True)
class Pass:
    """Models that share a forward pass; their embeddings lie side by side in what the batcher gives."""

    size: int
    models: tuple[bundle.Bundle, ...]
    batcher: batching.Batcher

    def embed(self, pixels: images.Pixels) -> dict[str, fusing.Vectors]:
        """(dims,) float32 by each of the models. Raises as the batcher does."""
        with traces.span("forward"):
            together = self.batcher.embed(pixels)
        result, start = {}, 0
        for item in self.models:
            result[item.id] = together[start : start + item.dims]
            start += item.dims
        return result


class Embedders:
    """The models at hand; thread-safe, to be made once, in the process that uses it."""

    def __init__(
        self,
        config: settings.Settings,
        base: database.Database,
        device: str,
        streams: int,
        sources: Mapping[str, str],
    ) -> None:
        """`streams`: forward passes at a time; `sources`: the backbone weights at hand, by their digest."""
        self._config = config
        self._base = base
        self._device = device
        self._streams = streams
        self._sources = sources
        self._registry = registry.Registry()
        self._backbones: dict[str, embedding.Backbone] = {}
        self._passes: dict[tuple[str, int], Pass] = {}
        self._known: dict[str, bundle.Bundle] = {}
        self._unfit: dict[str, tuple[str, int]] = {}
        self._lock = threading.Lock()

    @property
    def device(self) -> str:
        """torch's name of the device that they compute on."""
        return self._device

    @property
    def known(self) -> frozenset[str]:
        """Models that this process embeds by."""
        return frozenset(self._known)

    @property
    def unfit(self) -> frozenset[str]:
        """Models that this process cannot embed by, such as those whose backbone weights it lacks."""
        return frozenset(self._unfit)

    def learn(self, model_ids: Iterable[str]) -> None:
        """Read models from the database, with the backbone of each; those already met are passed over.

        A candidate that cannot be made ready, for whatever reason, is left out with a warning: it must not keep photos
        from the active model.

        Raises:
            TransientError: a model's bundle cannot be had yet, or the device does not take the active one now.
            ConfigurationError: the database lacks a table, or the login the right to it.
        """
        with self._lock:
            for model_id in model_ids:
                if model_id in self._known or model_id in self._unfit:
                    continue
                with self._base.transaction() as connection:
                    active = models.active(connection)
                    try:
                        found = self._registry.get(connection, model_id)
                    except errors.ConfigurationError as error:
                        # One of a newer version, say. What the database lacks is told at the end of the block.
                        self._leave_out(model_id, str(error), processes.EXIT_CONFIGURATION)
                        continue
                self._try(found, is_active=active is not None and active.id == model_id)

    def check_active(self, model_id: str | None) -> None:
        """Refuse to go on where this process cannot embed by the active model.

        Raises:
            UnfitProcessError: says why not, and the remedy.
        """
        if model_id in self._unfit:
            why, exit_code = self._unfit[model_id]
            raise processes.UnfitProcessError(f"The active model {model_id}: {why}", exit_code)

    def embed(
        self, decode: Callable[[int], images.Pixels], model_ids: Iterable[str], active: str | None
    ) -> dict[str, fusing.Vectors]:
        """One photo by several models: (dims,) float32 by each.

        What a candidate cannot embed is left out with a warning, as long as another model can.

        Args:
            decode: gives the photo's pixels for an input size.
            model_ids: the models, all of them known.
            active: the model that must not be left out.

        Raises:
            PermanentError: no model can embed it, or not the active one.
        """
        wanted = frozenset(model_ids)
        result: dict[str, fusing.Vectors] = {}
        failure: errors.PermanentError | None = None
        for item in list(self._passes.values()):
            of_it = wanted & {model.id for model in item.models}
            if not of_it:
                continue
            try:
                found = item.embed(decode(item.size))
            except errors.PermanentError as error:
                if active in of_it:
                    raise
                log.warning("candidate_failed", models=sorted(of_it), reason=error.reason, error=str(error))
                failure = error
            else:
                result |= {model_id: found[model_id] for model_id in of_it}
        if failure is not None and not result:
            raise failure
        return result

    def _leave_out(self, model_id: str, why: str, exit_code: int) -> None:
        """`exit_code`: with which the process ends should this model become the active one."""
        self._unfit[model_id] = why, exit_code
        log.warning("model_left_out", model=model_id, error=why)

    def _try(self, found: bundle.Bundle, *, is_active: bool) -> None:
        try:
            self._join(found)
        except errors.ConfigurationError as error:
            self._leave_out(found.id, str(error), processes.EXIT_CONFIGURATION)
        except torch.AcceleratorError as error:
            _end_without_device(error)
        except RuntimeError as error:
            # No memory on the device, or what torch makes of a network that it cannot run or compile.
            sha256 = found.backbone.weights_sha256
            if not any(used == sha256 for used, _ in self._passes):
                self._backbones.pop(sha256, None)
            why = (
                f"Model {found.name} ({found.id}) cannot be made ready on {self._device}: "
                f"{type(error).__name__}: {str(error).strip()[:300]}"
            )
            if is_active:
                raise errors.TransientError(why) from error
            self._leave_out(found.id, why, processes.EXIT_AWAY)

    def _join(self, found: bundle.Bundle) -> None:
        wanted = found.backbone
        sha256 = wanted.weights_sha256
        if sha256 not in self._sources:
            raise errors.ConfigurationError(
                f"Model {found.name} ({found.id}) needs backbone weights {wanted.weights_name} with SHA-256 {sha256}; "
                f"DEDUP_BACKBONE_WEIGHTS={self._config.backbone_weights} has them not. Add their file there, "
                "comma-separated."
            )
        if sha256 not in self._backbones:
            self._backbones[sha256] = embedding.Backbone(
                weights.load(self._sources[sha256]),
                self._device,
                self._config.forward,
                self._config.precision,
            )
        backbone = self._backbones[sha256]
        batch_size = self._config.embed_batch_size or backbone.batch_size
        before = self._passes.get((sha256, found.input_size))
        together = (*(before.models if before else ()), found)
        if before is None:
            backbone.warm_up(found.input_size, batch_size)
        embedder = embedding.Embedder(backbone, *(item.fusion for item in together))
        # The batcher before finishes what it has; its idle threads are all that stays of it.
        batcher = batching.Batcher(
            functools.partial(_forward, embedder),
            batch_size,
            self._config.embed_batch_wait_seconds,
            self._streams,
        )
        for thread in batcher.threads:
            health.process.needs(thread)
        log.info(
            "forward_pass",
            weights=backbone.weights_name,
            form=backbone.form,
            precision=backbone.precision,
            streams=self._streams,
            batch_size=batch_size,
            models=[item.id for item in together],
        )
        self._passes[sha256, found.input_size] = Pass(found.input_size, together, batcher)
        self._known[found.id] = found


def prepare(config: settings.Settings, base: database.Database) -> Embedders:
    """What this process embeds by. The first one of a database brings the active model.

    Raises:
        ConfigurationError: says what does not fit and the remedy.
        TransientError: the device does not take the active model now.
    """
    device = embedding.choose_device(config.device)
    budgets.limit_arenas()
    streams = embedding.share_cores(config.embed_streams, device)
    sources = {weights.source_digest(source): source for source in config.weights_sources}
    named = bundle.load(config.bundle) if config.bundle else None

    def first() -> bundle.Bundle:
        return bundle.for_backbone(next(iter(sources)))

    with base.transaction() as connection:
        active = models.start(connection, named, first, bundle.shipped_by_id)
        live = [model for model in models.every(connection) if model.status != "retired"]
    embedders = Embedders(config, base, device, streams, sources)
    # A candidate from before bundles were kept in the database waits for whoever has it.
    embedders.learn(model.id for model in live if model.has_bundle or model.id == active.id)
    embedders.check_active(active.id)
    log.info("embed_models", device=device, active=active.id, models=sorted(embedders.known))
    return embedders


def _forward(embedder: embedding.Embedder, pixels: images.Pixels) -> fusing.Vectors:
    """The forward pass. What fails in it is the device's fault: the pixels were checked."""
    try:
        with health.process.working("forward pass"):
            return embedder.embed(pixels)
    except torch.OutOfMemoryError as error:
        raise errors.TransientError(f"No memory on the device for {len(pixels)} photos.") from error
    except torch.AcceleratorError as error:
        _end_without_device(error)


def _end_without_device(error: Exception) -> NoReturn:
    # After a device-side fault every further call fails; only a new process gets the device back.
    log.critical("device_lost", error=str(error))
    os._exit(processes.EXIT_AWAY)
