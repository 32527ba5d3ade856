"""A whole extraction from what somebody asked for: networks loaded, compiled where it pays, checked, and embedded by.

Comes in: images, requests for backbones, a store. Goes out: one FeatureSet a backbone. ``extract`` does the work.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from penultimate.engine.backbones.compilation import decide_compile
from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.timm_backbone import PreprocessKind, TimmBackbone, backbone_of
from penultimate.engine.extract.extract import Report, extract, feature_key, rows_a_batch, said_not_finite
from penultimate.engine.extract.parity import parity_gate
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.decode.factory import default_decoder, make_decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.devices import DEFAULT_PRECISION, PrecisionName, device_named, dtype_named
from penultimate.engine.runtime.partition import WHOLE, Share
from penultimate.engine.runtime.threads import ThreadShare, default_batch_size
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.format.layout import SHARD_ROWS

Say = Callable[[str], None]
"""Called with a line for the person who waits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractionSettings:
    """How features are made; picklable."""

    preprocess: PreprocessKind = "paper"
    decoder: str | None = None
    """None: the default of the device."""

    device: str = "cpu"
    precision: PrecisionName = DEFAULT_PRECISION
    dtype: Literal["float32", "float16"] = "float32"
    """What is stored."""

    compiled: bool | None = None
    """None: where the number of images makes it pay."""

    batch_size: int | None = None
    """Images a forward pass; None: the default of the device."""

    workers: int | None = None
    """Decoding threads; None: one a core."""

    cores: int | None = None
    """Of which threads make use; None: all that this process may run on."""

    parity: bool = True
    """Whether some images are checked against the reference first."""

    @property
    def threads(self) -> ThreadShare:
        """Which threads do what."""
        return ThreadShare.of(self.device, decode=self.workers, cores=self.cores)

    @property
    def rows(self) -> int:
        """Images a forward pass, as ``extract`` will have them: networks are compiled for just that number."""
        return rows_a_batch(self.batch_size or default_batch_size(self.device))

    @property
    def decoder_name(self) -> str:
        """Of the decoder asked for, or the device's."""
        return self.decoder or default_decoder(self.device)

    def make_decoder(self) -> Decoder:
        """Raises what ``make_decoder`` raises."""
        return make_decoder(self.decoder_name, num_workers=self.threads.decode)


def extract_requests(
    images: ImageSet,
    requests: Sequence[BackboneRequest],
    store: FeatureStore,
    settings: ExtractionSettings,
    *,
    share: Share = WHOLE,
    shard_rows: int = SHARD_ROWS,
    say: Say,
    report: Report = lambda done, total: None,
) -> list[FeatureSet]:
    """Embed ``images`` with every network asked for; see ``extract``, whose errors it raises.

    What the parity check finds is kept with the features, and said if it is past its tolerance.
    """
    decoder = settings.make_decoder()

    def num_to_do(backbone: TimmBackbone) -> int:
        return 0 if store.contains(feature_key(images, backbone, decoder.name, dtype=settings.dtype)) else len(images)

    backbones, reasons = prepared_backbones(requests, settings, num_images=num_to_do, say=say)
    lacking = [backbone for backbone in backbones if settings.parity and num_to_do(backbone)]
    gates = {backbone.name: checked(images, backbone, decoder, settings, say) for backbone in lacking}
    extracted = extract(
        images,
        backbones,
        store,
        decoder=decoder,
        batch_size=settings.rows,
        dtype=settings.dtype,
        share=share,
        shard_rows=shard_rows,
        threads=settings.threads,
        notes={name: {"compile": reason, "parity": gates.get(name)} for name, reason in reasons.items()},
        report=report,
    )
    said_not_finite(store, extracted, say)
    return extracted


def prepared_backbones(
    requests: Sequence[BackboneRequest],
    settings: ExtractionSettings,
    *,
    num_images: Callable[[TimmBackbone], int],
    say: Say,
) -> tuple[list[TimmBackbone], dict[str, str]]:
    """The networks asked for, compiled where that was asked or pays; and by name, what was decided and said.

    ``num_images`` of a network is how many it is to embed; one that has none is not compiled.
    """
    dtype_named(settings.precision, device_named(settings.device))  # before a download, not after
    reasons = {}
    with settings.threads.in_force():
        backbones = [
            backbone_of(
                request.load(),
                preprocess=settings.preprocess,
                device=settings.device,
                precision=settings.precision,
            )
            for request in requests
        ]
        for backbone in backbones:
            decision = decide_compile(
                backbone,
                num_images(backbone),
                batch_size=settings.rows,
                replicas=settings.threads.replicas,
                asked=settings.compiled,
            )
            say(decision.reason)
            if decision.compile:
                say(f"{backbone.name}: compiled in {backbone.compile(settings.rows):.0f} s")
            reasons[backbone.name] = decision.reason
    return backbones, reasons


def checked(
    images: ImageSet, backbone: TimmBackbone, decoder: Decoder, settings: ExtractionSettings, say: Say
) -> Mapping[str, Any]:
    """What the parity check finds; said if it is past its tolerance."""
    gate = parity_gate(images, backbone, decoder, batch_size=settings.rows, threads=settings.threads)
    if gate.get("failures"):
        say(
            f"warning: {backbone.name} is far from the reference ({', '.join(gate['failures'])}); "
            "`penultimate parity` tells more; --precision float32 and --decoder pillow are the reference itself"
        )
    return gate
