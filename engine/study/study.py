"""Study: one complete, frozen value that says which datasets, backbones and settings are compared.

A YAML file and the Python API build the same value. Lists multiply: every dataset with every backbone, every loss,
number of shots, step budget and seed.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from penultimate.engine.backbones.catalog import match_models
from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.extract.settings import ExtractionOptions, ExtractionSettings
from penultimate.engine.images.datasets.digits import NAME as DIGITS
from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import DATASETS, load_images
from penultimate.engine.images.subset import at_most_per_class
from penultimate.engine.runtime.option_types import Count, listed
from penultimate.engine.runtime.strict import Strict
from penultimate.engine.study.settings import Pretrain, Probe, Train


def below(folder: str, path: str) -> str:
    """``path`` below ``folder`` unless it is absolute; ``~`` is the home folder."""
    return str(Path(folder).expanduser() / Path(path).expanduser())


class PerClass(Strict):
    """Samples of a class that are kept, at most; a split without a number stays whole."""

    train: Count | None = None
    val: Count | None = None
    test: Count | None = None


class Dataset(Strict):
    """Where images come from; the key it stands under is its name."""

    images: str | None = None
    """A dataset's name, or below the study's ``data`` a folder, manifest, tars or arrays; None: the key it stands
    under."""

    root: str | None = None
    """Where a dataset taken by name lies, below the study's ``data``; None: in a folder of its key's name there; the
    digits are written where they are not."""

    label_column: str = "label"
    multi_label: bool = False
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    per_class: PerClass | None = None

    def load(self, name: str, *, data: str, seed: int, cache: DigestCache | None) -> ImageSet:
        """The images, under ``name``; raises what ``load_images`` raises."""
        spec = self.images or name
        taken_by_name = spec in DATASETS
        root = Path(below(data, self.root or name)) if taken_by_name and (self.root or spec != DIGITS) else None
        found = load_images(
            spec if taken_by_name else below(data, spec),
            root=root,
            seed=seed,
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            label_column=self.label_column,
            multi_label=self.multi_label,
            cache=cache,
        )
        found = replace(found, name=name)
        most = {} if self.per_class is None else self.per_class.model_dump(exclude_none=True)
        return at_most_per_class(found, most, seed=seed) if most else found


class Backbone(Strict):
    """One network, or several by a glob or a set."""

    model: str
    """A timm name, ``arch`` or ``arch.tag``, a glob, or a set such as ``kornblith16``."""

    weights: str | None = None
    """``timm`` (which None is), ``package``, ``random``, a .safetensors or .pth file, or the folder of a run of
    ``penultimate train``; files and folders below the study's ``data``."""

    seed: int | None = None
    """Of random weights; None: the study's."""

    name: str | None = None
    """What results call it; needs a ``model`` that is one network."""

    pretrain: Pretrain | None = None
    """Train it here first, from random weights; ``weights`` is then left out. Its ``name`` is the model's with that of
    the dataset behind a dot unless another is given."""

    @model_validator(mode="after")
    def _names_one(self) -> "Backbone":
        if self.pretrain is not None and self.weights is not None:
            raise ValueError("a backbone has weights or pretrain, not both")
        models = match_models([self.model])
        if len(models) > 1 and (self.name is not None or self.pretrain is not None):
            raise ValueError(f"name and pretrain go with one network; {self.model} is {len(models)}")
        return self

    def requests(self, *, data: str, seed: int) -> list[BackboneRequest]:
        """One a network."""
        weights = self.weights or "timm"
        if weights not in ("timm", "package", "random"):
            weights = below(data, weights)
        seed = seed if self.seed is None else self.seed
        return [
            BackboneRequest(model=model, weights=weights, seed=seed, name=self.name)
            for model in match_models([self.model])
        ]


class Study(Strict):
    """The whole of it."""

    data: str = "."
    """Folder that datasets' roots, folders of images and files of weights are below; absolute ones stay."""

    store: str | None = None
    """Folder of a feature store that several studies share; None: one of its own, among the results."""

    device: Literal["cpu", "cuda"] = "cpu"
    workers: Count | None = None
    """Decoding threads; None: one a core."""

    seed: int = 0
    """Of splits that are not given, random weights, subsets and training."""

    datasets: Annotated[dict[str, Dataset], Field(min_length=1)]
    backbones: Annotated[tuple[Backbone, ...], Field(min_length=1)]
    extract: ExtractionOptions = ExtractionOptions()
    probe: Annotated[tuple[Probe, ...], BeforeValidator(listed)] = ()
    finetune: Annotated[tuple[Train, ...], BeforeValidator(listed)] = ()
    scratch: Annotated[tuple[Train, ...], BeforeValidator(listed)] = ()

    @field_validator("datasets", mode="before")
    @classmethod
    def _path_alone(cls, given: Any) -> Any:
        """A path alone is the root of a dataset taken by name, the images of another."""
        if not isinstance(given, Mapping):
            return given
        field = {name: "root" if name in DATASETS else "images" for name in given}
        return {name: {field[name]: how} if isinstance(how, str) else how or {} for name, how in given.items()}

    @field_validator("backbones", mode="before")
    @classmethod
    def _model_alone(cls, given: Any) -> Any:
        """``resnet50`` is short for ``{model: resnet50}``."""
        if not isinstance(given, list | tuple):
            return given
        return [{"model": each} if isinstance(each, str) else each for each in given]

    @model_validator(mode="after")
    def _goes_together(self) -> "Study":
        if not (self.probe or self.finetune or self.scratch):
            raise ValueError("a study needs at least one of probe, finetune and scratch")
        for name, dataset in self.datasets.items():
            if dataset.root is not None and (taken := dataset.images or name) not in DATASETS:
                raise ValueError(f"datasets.{name}: root goes with a dataset taken by name, and {taken!r} is none")
        for backbone in self.backbones:
            if backbone.pretrain is not None and backbone.pretrain.dataset not in self.datasets:
                raise ValueError(
                    f"{backbone.model} is to be trained on {backbone.pretrain.dataset!r}, which is none of the "
                    f"datasets: {', '.join(self.datasets)}"
                )
        return self

    @property
    def extraction(self) -> ExtractionSettings:
        """The section ``extract`` with the study's device and workers."""
        return ExtractionSettings(device=self.device, workers=self.workers, **self.extract.model_dump())
