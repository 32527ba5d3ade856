"""Find the classifier of a network, in whatever form the network keeps it, and the tensors that belong to it.

Networks differ: one linear layer, a 1 x 1 convolution (ResNet-BiT), two layers whose outputs are averaged (distilled
networks), one for each scale (CrossViT, EfficientViM), a small network (MetaFormer), or none. Nothing here assumes that
it can be called on pooled features: class scores come from ``forward_head`` alone.

A few networks are encoders for language models: they give tokens, and neither pool nor classify them.
"""

from torch import nn

from penultimate.engine.backbones.architectures.network import Network
from penultimate.store.errors import InputError


def is_token_encoder(model: nn.Module) -> bool:
    """Return whether the network is an encoder for language models, which has no single vector for an image."""
    return not hasattr(model, "get_classifier")


def refuse_token_encoder(model: nn.Module, name: str) -> None:
    """Raise InputError for a network that gives no one vector an image."""
    if is_token_encoder(model):
        import timm

        stem = name.partition(".")[0].removesuffix("_enc")
        others = [other for other in timm.list_models(f"{stem}*") if not other.endswith("_enc")]
        hint = f", such as {', '.join(others[:3])}" if others else ""
        raise InputError(
            f"{name} is an encoder that gives tokens, and neither pools nor classifies them: it can be no backbone and "
            f"cannot be trained; choose a network with a classifier{hint}"
        )


def classifiers(model: Network) -> tuple[nn.Module, ...]:
    """Return the modules that hold the classifier's tensors; none for an encoder of tokens."""
    if is_token_encoder(model):
        return ()
    found = model.get_classifier()
    heads = found if isinstance(found, tuple | list) else (found,)
    return tuple(head for head in heads if isinstance(head, nn.Module))


def classifier_names(model: Network) -> frozenset[str]:
    """Return the names in the state dict that belong to the classifier."""
    heads = set(classifiers(model))
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if module in heads)
    return frozenset(name for name in model.state_dict() if name.startswith(prefixes))


def num_classes_of(model: Network) -> int:
    """Return the number K of the network's own class scores; 0 where it has no classifier."""
    trained = [head for head in classifiers(model) if not isinstance(head, nn.Identity)]
    return int(model.num_classes) if trained else 0
