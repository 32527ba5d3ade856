"""TrainSettings: the settings of one training trial before its images and network are known.

The options are declared here and in ``options``, once: the command line, a study's YAML and ``penultimate.train`` read
their names, types, ranges, defaults and help texts from these classes.
"""

from dataclasses import replace
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.timm_backbone import PreprocessKind, preprocess_of
from penultimate.engine.images.decode.factory import default_decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.runtime.option_types import Count, Positive, listed
from penultimate.engine.runtime.strict import Seed
from penultimate.engine.train.learner.network import InitialModel, InitName, load_initial_model
from penultimate.engine.train.options import DecoderName, LossName, RunOptions
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.search.grid import SINGLE, Grid, grid_named
from penultimate.engine.train.search.grid_search import GridSearch

_EVALUATIONS = 20
"""Default number of evaluations of a run, evenly spaced."""

Rates = Annotated[tuple[Positive, ...], BeforeValidator(listed), Field(min_length=1)]
Decays = Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(listed), Field(min_length=1)]


class SearchOptions(RunOptions):
    """Options of a grid of runs, whatever its budget and its number of training images."""

    grid: str | None = None
    """Learning rates x weight decays to try: paper-finetune, paper-scratch or quick; by default learning rate 0.01
    without weight decay."""

    learning_rates: Rates | None = None
    """Learning rates at the top of the cosine, in place of the grid's."""

    weight_decays: Decays | None = None
    """Weight decays, in place of the grid's: the fraction that an update at the full learning rate takes off a
    weight, as in the paper."""

    batch_size: Count | None = None
    """Images an update, over all devices together; by default the grid's, or 256."""

    retrain: bool = True
    """Train the chosen settings again on train + val before test is scored; never with shots."""

    loss: LossName | None = None
    """Loss to minimise; by default sigmoid where images have several labels, else softmax."""

    crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.08
    """Least fraction of the image's area that a random crop covers; the greatest is all of it."""

    preprocess: PreprocessKind = "paper"
    """Evaluate on the whole image (paper), or on timm's centre crop (timm)."""

    size: Count | None = None
    """Side of the square input, in pixels; by default the network's own."""

    decoder: DecoderName | None = None
    """Library that decodes images; by default dali-gpu with device cuda, else dali on Linux and pillow elsewhere."""

    eval_every: Count | None = None
    """Updates between evaluations; by default a twentieth of the steps."""

    @field_validator("grid")
    @classmethod
    def _grid_is_known(cls, name: str | None) -> str | None:
        if name is not None:
            grid_named(name)
        return name

    @property
    def resolved_grid(self) -> Grid:
        """Return the named grid, with other learning rates and weight decays where they are given."""
        named = grid_named(self.grid) if self.grid else SINGLE
        return replace(
            named,
            learning_rates=self.learning_rates or named.learning_rates,
            weight_decays=self.weight_decays or named.weight_decays,
        )


class TrainSettings(SearchOptions):
    """One trial; picklable."""

    init: InitName
    steps: Count | None = None
    """Updates of a run; None for the grid's."""

    shots: Count | None = None
    """Training images a class; None for all."""

    seed: Seed = 0

    @property
    def num_steps(self) -> int:
        """Return the number of updates of a run."""
        return self.steps or self.resolved_grid.steps

    def initial_model(self, request: BackboneRequest) -> InitialModel:
        """Load the network that training begins with. Raises what ``load_initial_model`` raises."""
        initial = load_initial_model(request.model, init=self.init, weights=request.weights, seed=self.seed)
        return initial if request.name is None else replace(initial, label=request.name)

    def search(self, images: ImageSet, initial: InitialModel) -> GridSearch:
        """Resolve the settings. Raises InputError for what the images, the network and the settings do not allow."""
        return GridSearch(
            images=images,
            initial=initial,
            recipe=self._recipe(images, initial),
            grid=self.resolved_grid,
            retrain=self.retrain and self.shots is None,
        )

    def _recipe(self, images: ImageSet, initial: InitialModel) -> Recipe:
        kept = {name: getattr(self, name) for name in RunOptions.model_fields}
        decoder = self.decoder or default_decoder()
        resolved = {
            "network": initial.network,
            "weights": initial.digest,
            "images": images.digest,
            "shots": self.shots,
            "steps": self.num_steps,
            "batch_size": self.batch_size or self.resolved_grid.batch_size,
            "preprocess": self._view(initial),
            "augmenter": "pillow" if decoder == "pillow" else "dali",
            "decoder": decoder,
            "loss": self.loss or ("sigmoid" if images.labels_N.ndim == 2 else "softmax"),
            "crop_scale": (self.crop_scale, 1.0),
            "eval_every": self.eval_every or max(1, self.num_steps // _EVALUATIONS),
            "seed": self.seed,
        }
        return Recipe.of(kept | resolved)

    def _view(self, initial: InitialModel) -> Preprocess:
        view = preprocess_of(initial.model, self.preprocess)
        return view if self.size is None else replace(view, height=self.size, width=self.size)


class InitialModels:
    """The initial models of one network. Each is loaded once; one that is drawn at random, once for each seed."""

    def __init__(self, request: BackboneRequest) -> None:
        self._request = request
        self._models: dict[tuple[InitName, int | None], InitialModel] = {}

    def of(self, settings: TrainSettings) -> InitialModel:
        """Return the model for ``settings``. Raises what ``load_initial_model`` raises."""
        drawn = settings.init == "random" or self._request.weights == "random"
        key = (settings.init, settings.seed if drawn else None)
        if key not in self._models:
            self._models[key] = settings.initial_model(self._request)
        return self._models[key]
