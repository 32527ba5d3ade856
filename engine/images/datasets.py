"""Where images come from by what people type: a folder, a manifest or the name of a dataset."""

from collections.abc import Callable
from pathlib import Path

from penultimate.engine.images.folder import load_folder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.manifest import MANIFEST_SUFFIXES, load_manifest
from penultimate.engine.images.paper12 import PAPER12, download_dataset, load_paper_dataset
from penultimate.store.errors import InputError, UnknownNameError


def _loader(name: str) -> Callable[[Path, int], ImageSet]:
    return lambda root, seed: load_paper_dataset(name, root, seed=seed)


DATASETS: dict[str, Callable[[Path, int], ImageSet]] = {name: _loader(name) for name in PAPER12}
"""Name -> loader, from the folder that holds the dataset and the seed of its splits."""


def load_images(
    spec: str,
    *,
    root: Path | None = None,
    download: bool = False,
    seed: int = 0,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    labels: bool = True,
    label_column: str = "label",
    multi_label: bool = False,
) -> ImageSet:
    """The images that ``spec`` names: a folder, a CSV or Parquet manifest, or a dataset with its ``root``.

    ``download`` fetches a dataset into its ``root`` first, where its publisher serves it.
    ``val_fraction`` and ``test_fraction`` apply to folders and manifests, ``labels`` to folders, ``label_column``
    and ``multi_label`` to manifests. Raises UnknownNameError for an unknown dataset and InputError for anything
    else that cannot be loaded.
    """
    if not spec:
        raise InputError("no images named: give a folder, a CSV or Parquet manifest, or a dataset")
    path = Path(spec)
    if root is not None:
        if spec not in DATASETS:
            raise UnknownNameError("dataset", spec, DATASETS)
        if download:
            download_dataset(spec, root)
        return DATASETS[spec](root, seed)
    if spec in DATASETS:
        also = f", or ./{spec} for the folder of that name" if path.exists() else ""
        raise InputError(f"the dataset {spec!r} needs --root, the folder that holds it{also}")
    if path.is_dir():
        return load_folder(path, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed, labels=labels)
    if path.is_file():
        return load_manifest(
            path,
            label_column=label_column,
            multi_label=multi_label,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            seed=seed,
        )
    if set(spec) & {"/", "\\", "~"} or path.suffix.lower() in MANIFEST_SUFFIXES:
        raise InputError(f"no folder or manifest at {spec!r}")
    raise UnknownNameError("folder, manifest or dataset", spec, DATASETS)
