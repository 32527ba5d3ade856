"""BackboneRequest names a network and its weights before anything is loaded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from penultimate.engine.backbones.catalog import match_models, refuse_if_no_backbone
from penultimate.engine.backbones.loading.weights import LoadedNetwork, check_source, check_weights_of, load_network
from penultimate.store.key import PENULTIMATE


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneRequest:
    """A request for one network with its weights; small, and it can be pickled."""

    model: str
    """Name of the network: ``arch``, ``arch.tag``, or ``package.module:function``."""

    weights: str = "timm"
    """Source of the weights: ``timm``, ``package``, ``random``, or the path of a file or a run."""

    seed: int = 0
    """Seed of random weights."""

    name: str | None = None
    """Name that replaces the one that ``load_network`` gives to network and weights."""

    def load(self) -> LoadedNetwork:
        """Load the network with its weights; raise what ``load_network`` raises."""
        loaded = load_network(self.model, weights=self.weights, seed=self.seed)
        return loaded if self.name is None else replace(loaded, name=self.name)


def requests_of(
    patterns: Iterable[str], *, weights: str, seed: int, readouts: Sequence[str] = (PENULTIMATE,)
) -> list[BackboneRequest]:
    """Return a request for each network that the names, globs and sets match; each must have these readouts.

    Raises what ``match_models``, ``check_source``, ``check_weights_of`` and ``refuse_if_no_backbone`` raise.
    """
    check_source(weights)
    models = match_models(patterns)
    for model in models:
        check_weights_of(model, weights=weights)
        refuse_if_no_backbone(model, readouts)
    return [BackboneRequest(model=model, weights=weights, seed=seed) for model in models]
