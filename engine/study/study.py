"""Declare a study: one complete, frozen value that says which datasets, backbones and settings are compared.

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
from penultimate.engine.images.load import DATASETS, load_labelled_images
from penultimate.engine.images.options import ImageOptions
from penultimate.engine.images.subset import at_most_per_class
from penultimate.engine.runtime.option_types import Count, listed
from penultimate.engine.runtime.strict import Seed, Strict
from penultimate.engine.study.settings import PretrainSection, ProbeSection, TrainSection
from penultimate.store.objects.address import is_address


def below(folder: str, path: str) -> str:
    """Return ``path`` below ``folder`` unless it is absolute or an address; ``~`` is the home folder."""
    if is_address(path):
        return path
    return str(Path(folder).expanduser() / Path(path).expanduser())


class PerClass(Strict):
    """Largest number of samples of a class to keep in each split; a split without a number is kept whole."""

    train: Count | None = None
    val: Count | None = None
    test: Count | None = None


class Dataset(ImageOptions):
    """Source of a dataset's images; its key in ``datasets`` is its name."""

    images: str | None = None
    """Name of a built-in dataset, or a folder, manifest, tars or arrays below the study's ``data``, or an address; by
    default the key in ``datasets``."""

    root: str | None = None
    """Folder of a built-in dataset, below the study's ``data``; by default the folder named like its key. The digits
    are written there if they are missing."""

    per_class: PerClass | None = None

    def load(self, name: str, *, data: str, seed: int, cache: DigestCache | None) -> ImageSet:
        """Load the images, naming the set ``name``; raises what ``load_labelled_images`` raises."""
        spec = self.images or name
        taken_by_name = spec in DATASETS
        root = Path(below(data, self.root or name)) if taken_by_name and (self.root or spec != DIGITS) else None
        found = load_labelled_images(
            spec if taken_by_name else below(data, spec),
            root=root,
            seed=seed,
            cache=cache,
            **self.part(ImageOptions).model_dump(),
        )
        found = replace(found, name=name)
        most = {} if self.per_class is None else self.per_class.model_dump(exclude_none=True)
        return at_most_per_class(found, most, seed=seed) if most else found


class BackboneEntry(Strict):
    """One network, or several by a glob or a set."""

    model: str
    """A timm name, ``arch`` or ``arch.tag``, a glob, a set such as ``kornblith16``, or ``package.module:function``."""

    weights: str | None = None
    """``timm`` (which None is), ``package``, ``random``, a .safetensors or .pth file, or the folder of a run of
    ``penultimate train``; files and folders below the study's ``data``."""

    seed: Seed | None = None
    """Seed of random weights; by default the study's."""

    name: str | None = None
    """Name of the backbone in all results; needs a ``model`` that is one network."""

    pretrain: PretrainSection | None = None
    """Settings to train it first, from random weights, with ``weights`` left out. Its ``name`` is ``model.dataset``
    unless another is given."""

    @model_validator(mode="after")
    def _names_one(self) -> "BackboneEntry":
        if self.pretrain is not None and self.weights is not None:
            raise ValueError("a backbone has weights or pretrain, not both")
        models = match_models([self.model])
        if len(models) > 1 and (self.name is not None or self.pretrain is not None):
            raise ValueError(f"name and pretrain go with one network; {self.model} is {len(models)}")
        return self

    def requests(self, *, data: str, seed: int) -> list[BackboneRequest]:
        """Return one request for each network that ``model`` matches."""
        weights = self.weights or "timm"
        if weights not in ("timm", "package", "random"):
            weights = below(data, weights)
        seed = seed if self.seed is None else self.seed
        return [
            BackboneRequest(model=model, weights=weights, seed=seed, name=self.name)
            for model in match_models([self.model])
        ]


class Study(Strict):
    """A complete study: datasets, backbones, and what to compare."""

    data: str = "."
    """Folder to which paths of datasets, images and weights are relative."""

    store: str | None = None
    """Folder of a feature store, which several studies may use; by default one among the study's results."""

    device: Literal["cpu", "cuda"] = "cpu"
    workers: Count | None = None
    """Number of decoding threads; by default one for each core."""

    seed: Seed = 0
    """Seed of splits that are not given, random weights, subsets and training."""

    datasets: Annotated[dict[str, Dataset], Field(min_length=1)]
    backbones: Annotated[tuple[BackboneEntry, ...], Field(min_length=1)]
    extract: ExtractionOptions = ExtractionOptions()
    probe: Annotated[tuple[ProbeSection, ...], BeforeValidator(listed)] = ()
    finetune: Annotated[tuple[TrainSection, ...], BeforeValidator(listed)] = ()
    scratch: Annotated[tuple[TrainSection, ...], BeforeValidator(listed)] = ()

    @field_validator("datasets", mode="before")
    @classmethod
    def _path_alone(cls, given: Any) -> Any:
        """Accept a path in place of a dataset: the root of a built-in dataset, the images of another."""
        if not isinstance(given, Mapping):
            return given
        field = {name: "root" if name in DATASETS else "images" for name in given}
        return {name: {field[name]: how} if isinstance(how, str) else how or {} for name, how in given.items()}

    @field_validator("backbones", mode="before")
    @classmethod
    def _model_alone(cls, given: Any) -> Any:
        """Accept ``resnet50`` as short for ``{model: resnet50}``."""
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
        """Return the section ``extract`` with the study's device and workers."""
        return ExtractionSettings(device=self.device, workers=self.workers, **self.extract.model_dump())
