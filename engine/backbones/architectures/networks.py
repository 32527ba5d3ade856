"""Create networks by name: timm's, and the three of the paper's sixteen that timm does not have."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

from torch import nn

from penultimate.engine.backbones.architectures.network import Network
from penultimate.engine.backbones.architectures.seeded import Seeded
from penultimate.engine.backbones.architectures.suggestions import suggested_names
from penultimate.engine.backbones.loading.hub import asking_the_hub
from penultimate.engine.backbones.own.function import HUB_PREFIXES, find_function, is_own
from penultimate.store.errors import InputError, UnknownNameError

HALF = (0.5, 0.5, 0.5)

OUR_CONFIGS: dict[str, dict[str, Any]] = {
    "inception_v1": {
        "architecture": "inception_v1",
        "tag": "tv_in1k",
        "url": "https://download.pytorch.org/models/googlenet-1378be20.pth",
        "input_size": (3, 224, 224),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        # torchvision feeds these weights its usual normalisation and undoes it inside (transform_input).
        "mean": HALF,
        "std": HALF,
        "num_classes": 1000,
    },
    "bn_inception": {
        "architecture": "bn_inception",
        "tag": "caffe_in1k",
        "url": "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth",
        "input_size": (3, 224, 224),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        # Published as BGR bytes less (104, 117, 128); checkpoint_layouts.py turns the first convolution to RGB.
        "mean": (128 / 255, 117 / 255, 104 / 255),
        "std": (1 / 255, 1 / 255, 1 / 255),
        "num_classes": 1000,
    },
    "nasnetamobile": {
        "architecture": "nasnetamobile",
        "tag": "tf_in1k",
        "url": "http://data.lip6.fr/cadene/pretrainedmodels/nasnetamobile-7e03cead.pth",
        "input_size": (3, 224, 224),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": HALF,
        "std": HALF,
        "num_classes": 1000,
    },
}
"""Name of a network built here -> its ``pretrained_cfg`` as timm has it; each has one set of published weights."""


def create_network(
    name: str,
    *,
    pretrained: bool = False,
    seed: int = 0,
    num_classes: int | None = None,
    dropout: float | None = None,
    batch_norm_scale: bool = True,
) -> Network:
    """Create the network ``name`` in evaluation mode on the CPU, with timm's hub weights if ``pretrained``.

    Whatever is drawn at random is drawn from ``seed``; torch's global generator is left as it was.

    ``num_classes`` None keeps the network's own. ``dropout`` is the probability before the classifier, None the
    network's own (0 in timm). ``batch_norm_scale=False`` fixes gamma of every batch norm at 1 and does not
    learn it, as the Inception papers' own training did.

    Raises UnknownNameError for an architecture or a tag that is not known, OSError if the hub cannot be
    reached, InputError if timm knows no weights for it or pretrained weights have a learned scale to be fixed.
    """
    check_name(name)
    options = {"num_classes": num_classes, "drop_rate": dropout}
    with Seeded(seed):
        arch = arch_of(name)
        model = _ours(arch, options) if arch in OUR_CONFIGS else _timms(name, pretrained, options)
    if not batch_norm_scale:
        fix_batch_norm_scale(model, initial=not pretrained)
    return model.eval()


def fix_batch_norm_scale(model: nn.Module, *, initial: bool) -> None:
    """Set gamma of every batch norm to 1 and exclude it from training.

    ``initial`` means that nothing was trained yet. Otherwise InputError is raised unless gamma is 1 already: taking
    a learned scale away would change what the network computes.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine]
    for norm in norms:
        if not initial and not bool((norm.weight == 1).all()):
            raise InputError(
                "these weights were trained with a batch-norm scale, which cannot be taken away afterwards; "
                "start from random weights, or from weights without one (inception_v3.tf_in1k has none)"
            )
        nn.init.ones_(norm.weight)
        norm.weight.requires_grad_(False)


def check_name(name: str) -> None:
    """Raise UnknownNameError unless ``name`` is an architecture, ``arch.tag``, a hub repository or a user's function.

    The module of a function is imported; raises what ``find_function`` raises.
    """
    import timm

    if name.startswith(HUB_PREFIXES):
        return
    if is_own(name):
        find_function(name)
        return
    arch, _, tag = name.partition(".")
    if arch not in OUR_CONFIGS and not timm.is_model(arch):
        raise unknown_model(name)
    tags = weight_tags(arch)
    if tag and tag not in tags:
        raise UnknownNameError(f"weights tag of {arch}", tag, tags or ["none: use --weights random or a file"])


def unknown_model(name: str) -> UnknownNameError:
    """Return the error for a name, or a glob, that no network has; it suggests names, or how to see all."""
    import timm

    bare = name.replace("*", "").replace("?", "")
    known, tagged = [*timm.list_models(), *OUR_CONFIGS], timm.list_models(pretrained=True)
    nearest = suggested_names(bare, [*known, *tagged] if "." in bare else known) or suggested_names(bare, tagged)
    return UnknownNameError(
        "model", name, known if nearest else ["`penultimate models` lists them all"], nearest=nearest
    )


def weight_tags(arch: str) -> list[str]:
    """Return the tags of the published weights known for an architecture."""
    import timm

    if arch in OUR_CONFIGS:
        return [OUR_CONFIGS[arch]["tag"]]
    return [name.partition(".")[2] for name in timm.list_models(f"{arch}.*", include_tags=True)]


def arch_of(name: str) -> str:
    """Return the name without its weights tag; that of a hub repository or a function is returned unchanged."""
    return name if is_own(name) or name.startswith(HUB_PREFIXES) else name.partition(".")[0]


def full_name(name: str, model: Network) -> str:
    """Return ``arch.tag`` with the tag that was resolved; the name of a hub repository is returned unchanged."""
    if name.startswith(HUB_PREFIXES):
        return name
    tag = model.pretrained_cfg.get("tag")  # timm leaves it away where it has a configuration and no weights
    return f"{arch_of(name)}.{tag}" if tag else arch_of(name)


_CACHED = "its configuration is there alone; set HF_HUB_OFFLINE=1 if it is in the hub's local cache"


def _timms(name: str, pretrained: bool, options: dict[str, Any]) -> Network:
    import timm

    # The configuration of a repository comes from the hub whatever the weights are.
    from_hub = name.startswith(HUB_PREFIXES)
    try:
        with asking_the_hub(name, _CACHED) if from_hub else nullcontext():
            model = timm.create_model(name, pretrained=pretrained, **options)  # None is the model's own
    except RuntimeError as error:
        if "No pretrained weights exist" in str(error):
            raise InputError(f"timm has no pretrained weights for {name!r}; give --weights random or a file") from error
        raise
    return cast("Network", model)  # duck-typed: timm's models share no base class


def _ours(arch: str, options: dict[str, Any]) -> Network:
    from penultimate.engine.backbones.architectures.bn_inception import BNInception
    from penultimate.engine.backbones.architectures.inception_v1 import InceptionV1
    from penultimate.engine.backbones.architectures.nasnet_mobile import NASNetAMobile

    classes: dict[str, Callable[..., Network]] = {
        "inception_v1": InceptionV1,
        "bn_inception": BNInception,
        "nasnetamobile": NASNetAMobile,
    }
    config = dict(OUR_CONFIGS[arch])
    given = options["num_classes"]
    return classes[arch](
        num_classes=config["num_classes"] if given is None else given,
        dropout=options["drop_rate"] or 0.0,
        pretrained_cfg=config,
    )
