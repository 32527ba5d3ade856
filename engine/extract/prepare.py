"""ExtractionJob describes the networks and settings of an extraction, and makes an Extractor of them.

The same job runs in this process or as the tasks of a cluster: networks are loaded, compiled where that pays, and
checked against the reference once; then each part of the images is embedded by ``embed_images``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from penultimate.engine.backbones.backbone import Backbone
from penultimate.engine.backbones.compilation import decide_compile
from penultimate.engine.backbones.loading.weights import LoadedNetwork
from penultimate.engine.backbones.own.function import telling_whose
from penultimate.engine.backbones.own.own_network import OwnNetwork
from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.timm_backbone import TimmBackbone, backbone_of
from penultimate.engine.extract.embed import Log
from penultimate.engine.extract.extractor import Extractor, embedding_of
from penultimate.engine.extract.parity import parity_check
from penultimate.engine.extract.settings import ExtractionSettings
from penultimate.engine.images.image_set import ImageSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.key import label_of


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractionJob:
    """The networks and settings of an extraction; it can be pickled, and is the same wherever it runs."""

    requests: tuple[BackboneRequest, ...]
    settings: ExtractionSettings = field(default_factory=ExtractionSettings)

    num_workers: int = 1
    """Number of processes, at once or one after the other, that divide the images; whether compiling pays depends on
    what one of them embeds."""

    @property
    def shard_rows(self) -> int | None:
        """Number of samples in a block, the unit of work and of resumption; None if the set's size decides."""
        return self.settings.shard_rows

    def for_workers(self, count: int, *, cores: int) -> Self:
        """Return this job for each of ``count`` workers that divide the images and have ``cores`` cores each."""
        return replace(self, num_workers=count, settings=self.settings.model_copy(update={"cores": cores}))

    def prepare(self, images: ImageSet, store: FeatureStore, log: Log) -> Extractor:
        """Load the networks, and compile those that lack features of ``images`` where that is requested or pays.

        Raises what ``BackboneRequest.load`` and ``make_decoder`` raise.
        """
        settings = self.settings
        settings.check_machine()  # before a network is loaded

        def num_to_embed(backbone: TimmBackbone) -> int:
            return max(self._num_lacking(images, backbone, store).values()) // self.num_workers

        backbones, reasons = prepared_backbones(self.requests, settings, num_images=num_to_embed, log=log)
        _log_other_rows(backbones, store, log)
        extractor = self.extractor(backbones)
        labels = {label_of(backbone.name, readout): backbone.name for backbone, readout in extractor.outputs}
        return extractor.with_notes({label: {"compile": reasons[name]} for label, name in labels.items()})

    def extractor(self, backbones: Sequence[Backbone]) -> Extractor:
        """Return an Extractor of loaded ``backbones`` with the settings of this job."""
        return Extractor(
            backbones=backbones,
            decoder=self.settings.make_decoder(),
            batch_size=self.settings.rows_per_batch,
            dtype=self.settings.dtype,
            shard_rows=self.shard_rows,
            retry_failed=self.settings.retry_failed,
            threads=self.settings.threads,
        )

    def check(self, extractor: Extractor, images: ImageSet, store: FeatureStore, log: Log) -> dict[str, dict[str, Any]]:
        """Check each backbone that lacks features of ``images`` against the reference.

        Returns notes by label of a backbone's readout, to be stored with its features. Distances past their tolerance
        are logged.
        """
        found: dict[str, dict[str, Any]] = {}
        for backbone in extractor.backbones:
            assert isinstance(backbone, TimmBackbone), "prepare made it"
            lacking = self.settings.parity and any(self._num_lacking(images, backbone, store).values())
            reports = _parity(images, backbone, extractor, log) if lacking else {}
            found |= {
                label_of(backbone.name, readout): {"parity": reports.get(readout)} for readout in backbone.feature_dims
            }
        return found

    def _num_lacking(self, images: ImageSet, backbone: TimmBackbone, store: FeatureStore) -> dict[str, int]:
        """Return how many images lack each readout in the store, as far as that is known without reading them."""
        contents_N3, failures = images.contents.known(), not self.settings.retry_failed
        dtype, decoder = self.settings.dtype, self.settings.decoder_name
        embeddings = {
            readout: embedding_of(backbone, decoder, dtype=dtype, readout=readout) for readout in backbone.feature_dims
        }
        return {
            readout: len(images) - store.num_known(embedding, contents_N3, failures=failures)
            for readout, embedding in embeddings.items()
        }


def prepared_backbones(
    requests: Sequence[BackboneRequest],
    settings: ExtractionSettings,
    *,
    num_images: Callable[[TimmBackbone], int],
    log: Log,
) -> tuple[list[TimmBackbone], dict[str, str]]:
    """Load the requested networks, compile them where that is requested or pays, and log each decision.

    ``num_images`` of a network is how many images it is to embed; one that has none is not compiled. Returns the
    networks, and by name the reason of each decision.
    """
    settings.check_machine()  # before a download, not after
    reasons = {}
    with settings.threads.in_force():
        backbones = [
            backbone_of(
                network,
                preprocess=settings.preprocess,
                readouts=settings.readouts,
                device=settings.device,
                precision=settings.precision,
            )
            for network in _loaded(requests, log)
        ]
        for backbone in backbones:
            decision = decide_compile(
                backbone,
                num_images(backbone),
                batch_size=settings.rows_per_batch,
                replicas=settings.threads.replicas,
                requested=settings.compile,
            )
            log(decision.reason)
            if decision.compile:
                with telling_whose(backbone.name, "cannot be compiled", instead="; leave --compile away"):
                    seconds = backbone.compile(settings.rows_per_batch)
                log(f"{backbone.name}: compiled in {seconds:.0f} s")
            reasons[backbone.name] = decision.reason
    return backbones, reasons


def _loaded(requests: Sequence[BackboneRequest], log: Log) -> list[LoadedNetwork]:
    """Load the networks, and log what there is to doubt about each."""
    networks = [request.load() for request in requests]
    for network in networks:
        for doubt in network.warnings:
            log(f"warning: {network.name}: {doubt}")
    return networks


def _log_other_rows(backbones: Sequence[TimmBackbone], store: FeatureStore, log: Log) -> None:
    """Log of each network of the user's that has no rows in the store whether another of its name has some."""
    own = [backbone for backbone in backbones if isinstance(backbone.model, OwnNetwork)]
    keys = store.keys() if own else []
    for backbone in own:
        there = {key.weights for key in keys if key.backbone == backbone.name}
        if there and backbone.weights_digest not in there:
            log(
                f"{backbone.name}: the rows of this name in the store are of other weights, or of code that computed "
                "something else; they are not used"
            )


def _parity(
    images: ImageSet, backbone: TimmBackbone, extractor: Extractor, log: Log
) -> Mapping[str, Mapping[str, Any]]:
    """Check all readouts of a backbone in one pass; return the report of each by name."""
    found = parity_check(
        images, backbone, extractor.decoder, batch_size=extractor.batch_size, threads=extractor.threads
    )
    for readout, report in found.items():
        if report.get("failures"):
            log(
                f"warning: {label_of(backbone.name, readout)} is far from the reference "
                f"({', '.join(report['failures'])}); `penultimate parity` tells more; --precision float32 and "
                "--decoder pillow are the reference itself"
            )
    return found
