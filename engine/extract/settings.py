"""ExtractionSettings declares once, for the command line, YAML and Python, every option of how features are made."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from penultimate.engine.backbones.timm_backbone import PreprocessKind
from penultimate.engine.extract.extractor import rows_per_batch
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.decode.factory import DecoderName, default_decoder, make_decoder
from penultimate.engine.runtime.device_options import DecodingOptions
from penultimate.engine.runtime.devices import DEFAULT_PRECISION, PrecisionName, device_named, dtype_named
from penultimate.engine.runtime.option_types import Count, listed
from penultimate.engine.runtime.strict import Strict
from penultimate.engine.runtime.threads import ThreadBudget, default_batch_size
from penultimate.store.key import PENULTIMATE

ReadoutNames = Annotated[tuple[str, ...], BeforeValidator(listed), Field(min_length=1)]
"""Names of readouts, or globs over them; one may stand without a list."""


class PassOptions(Strict):
    """Options of the passes of images through a network."""

    decoder: DecoderName | None = None
    """Library that decodes images; by default dali-gpu with device cuda, else dali on Linux and pillow elsewhere."""

    compile: bool | None = None
    """Compile networks; by default where the number of images makes it pay."""

    batch_size: Count | None = None
    """Images a forward pass, lowered to a power of two; by default 8 on a CPU, 256 on a GPU."""


class ExtractionOptions(PassOptions):
    """Options of how features are made: the section ``extract`` of a study, and settings of ``penultimate extract``."""

    preprocess: PreprocessKind = "paper"
    """Resize of images. ``paper``: the whole image to the network's input. ``timm``: its own resize and centre crop.
    ``paper-exif`` and ``timm-exif``: the same after rotating the image by its EXIF orientation, otherwise ignored.
    A network of your own brings its resize."""

    readouts: ReadoutNames = (PENULTIMATE,)
    """Vectors of one pass of the network to keep, each as features of its own: penultimate (what the classifier is
    given), cls, patch-mean, cls+patch-mean, last4 (class tokens of the last four blocks, and the last patch mean),
    block:I or stage:I (mean over the patches or the map; negative from the end), blocks (four, evenly spaced), or a
    glob. `penultimate models NAME` lists what a network has."""

    precision: PrecisionName = DEFAULT_PRECISION
    """Precision in which the network computes. float32 is on every processor; bfloat16 is faster where there are units
    for it and cost no accuracy on Caltech-101 and CIFAR-10. tf32, on GPUs alone, is float32 with coarser products.
    `penultimate parity` tells what each changes on IMAGES."""

    dtype: Literal["float32", "float16"] = "float32"
    """Dtype in which features are stored."""

    parity: bool = True
    """Check some images against the reference before all are embedded."""


class PredictSettings(PassOptions, DecodingOptions):
    """Options of embedding images for a saved head; all others are the head's own."""


class ExtractionSettings(ExtractionOptions, DecodingOptions):
    """All options of how features are made, those of the machine included; frozen, hashable and picklable."""

    shard_rows: Count | None = None
    """Images in a block, the unit of work and of resumption, and rows in one object of the store: a multiple of 64, or
    fewer. By default 1,024, and up to 8,192 for sets of more than 16,384 images."""

    retry_failed: bool = False
    """Try images again that could not be decoded before, though their bytes are the same."""

    cores: Count | None = None
    """Cores that threads make use of; by default all that this process may run on."""

    @property
    def threads(self) -> ThreadBudget:
        """Numbers of the threads that decode and of those that run networks."""
        return ThreadBudget.of(self.device, decode=self.workers, cores=self.cores)

    @property
    def rows_per_batch(self) -> int:
        """Number of images a forward pass of an extraction, which networks are compiled for."""
        return rows_per_batch(self.batch_size or default_batch_size(self.device))

    @property
    def decoder_name(self) -> str:
        """Name of the chosen decoder, or of the device's default."""
        return self.decoder or default_decoder(self.device)

    def check_machine(self) -> None:
        """Raise UnavailableError where this machine lacks the device, its precision or the decoder."""
        dtype_named(self.precision, device_named(self.device))
        self.make_decoder()

    def make_decoder(self) -> Decoder:
        """Make the decoder; raise what ``decode.factory.make_decoder`` raises."""
        return make_decoder(self.decoder_name, num_workers=self.threads.decode)
