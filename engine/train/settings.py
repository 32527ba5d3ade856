"""TrainSettings: what somebody asks of one training trial, before images and network are known; a Search of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.timm_backbone import PreprocessKind, preprocess_of
from penultimate.engine.images.decode.factory import default_decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.devices import PrecisionName
from penultimate.engine.train.search.grid import WHOLE, Grid, Shard, grid_named
from penultimate.engine.train.learner.network import InitName, Start, load_start
from penultimate.engine.train.recipe import LossName, Recipe
from penultimate.engine.train.runs.run import Means
from penultimate.engine.train.search.grid_search import Outcome, Search, answer_folder, run_search
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog

_SINGLE = Grid(learning_rates=(0.01,), weight_decays=(0.0,), steps=20_000, batch_size=256)
"""Where no grid is named."""

_EVALUATIONS = 20
"""Of a run, evenly spaced, unless asked otherwise."""


def grid_of(
    name: str | None, learning_rates: Sequence[float] | None = None, weight_decays: Sequence[float] | None = None
) -> Grid:
    """The grid of that name, one pair for None; with other learning rates or weight decays where they are given."""
    named = grid_named(name) if name else _SINGLE
    return replace(
        named,
        learning_rates=tuple(learning_rates or named.learning_rates),
        weight_decays=tuple(weight_decays or named.weight_decays),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """Of one trial; picklable. What is not described here is as in ``Recipe``."""

    init: InitName
    grid: Grid
    steps: int | None = None
    """None: the grid's."""

    batch_size: int | None = None
    """None: the grid's."""

    shots: int | None = None
    retrain: bool = True
    """Whether the chosen settings are trained again on train + val; never with ``shots``."""

    warmup_steps: int = 0
    loss: LossName | None = None
    """None: sigmoid where images have several labels, else softmax."""

    label_smoothing: float = 0.0
    dropout: float | None = None
    auxiliary_head: bool = False
    batch_norm_scale: bool = True
    crop_scale: float = 0.08
    """Least share of the image's area that a random crop covers; the most is all of it."""

    ema_decay: float | None = None
    preprocess: PreprocessKind = "paper"
    size: int | None = None
    """Pixels of the square input; None: the network's own."""

    decoder: str | None = None
    """Makes training and evaluation images; None: the default of a CPU."""

    precision: PrecisionName = "float32"
    channels_last: bool = True
    compile: bool = False
    eval_every: int | None = None
    """None: a twentieth of the steps."""

    seed: int = 0

    def start(self, request: BackboneRequest) -> Start:
        """Where it starts; raises what ``load_start`` raises."""
        start = load_start(request.model, init=self.init, weights=request.weights, seed=self.seed)
        return start if request.name is None else replace(start, label=request.name)

    def search(self, images: ImageSet, start: Start) -> Search:
        """The question. Raises InputError for what the images, the network and the settings do not allow."""
        view = preprocess_of(start.model, self.preprocess)
        steps = self.grid.steps if self.steps is None else self.steps
        decoder = self.decoder or default_decoder()
        recipe = Recipe(
            network=start.network,
            weights=start.digest,
            images=images.digest,
            shots=self.shots,
            steps=steps,
            batch_size=self.grid.batch_size if self.batch_size is None else self.batch_size,
            warmup_steps=self.warmup_steps,
            preprocess=view if self.size is None else replace(view, height=self.size, width=self.size),
            augmenter="pillow" if decoder == "pillow" else "dali",
            decoder=decoder,
            loss=self.loss or ("sigmoid" if images.labels_N.ndim == 2 else "softmax"),
            label_smoothing=self.label_smoothing,
            dropout=self.dropout,
            auxiliary_head=self.auxiliary_head,
            batch_norm_scale=self.batch_norm_scale,
            crop_scale=(self.crop_scale, 1.0),
            precision=self.precision,
            channels_last=self.channels_last,
            compile=self.compile,
            ema_decay=self.ema_decay,
            eval_every=max(1, steps // _EVALUATIONS) if self.eval_every is None else self.eval_every,
            seed=self.seed,
        )
        return Search(
            images=images, start=start, recipe=recipe, grid=self.grid, retrain=self.retrain and self.shots is None
        )


class Starts:
    """The starts of one network, each loaded once, those that are drawn once a seed."""

    def __init__(self, request: BackboneRequest) -> None:
        self._request = request
        self._starts: dict[tuple[InitName, int | None], Start] = {}

    def of(self, settings: TrainSettings) -> Start:
        """Raises what ``load_start`` raises."""
        drawn = settings.init == "random" or self._request.weights == "random"
        key = (settings.init, settings.seed if drawn else None)
        if key not in self._starts:
            self._starts[key] = settings.start(self._request)
        return self._starts[key]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answer:
    """What ``logged_search`` found."""

    trial: Trial | None
    """None while other shards are waited for, and where there is no test split to score."""

    folder: Path | None
    """Of the run whose network is the answer; None where it is not there, or not any more."""


def logged_search(
    search: Search, out: Path, log: TrialLog, means: Means, *, shard: Shard = WHOLE, say: Callable[[str], None]
) -> Answer:
    """Read the trial from ``log``, or do what is missing of the search, append its trial and say how it went.

    Only the main process of a world writes and talks. Raises what ``run_search`` raises.
    """
    if log.contains(search.trial_id):
        trial = next(trial for trial in log.trials() if trial.id == search.trial_id)
        return Answer(trial=trial, folder=answer_folder(search, out))
    outcome = run_search(search, out, means, shard=shard)
    if means.world.is_main:
        for line in _said(search, outcome, log.objects.where()):
            say(line)
        if outcome.trial is not None:
            log.append(outcome.trial)
    return Answer(trial=outcome.trial, folder=outcome.folder)


def _said(search: Search, outcome: Outcome, trials: str) -> list[str]:
    name = f"{search.images.name}, {search.start.label}, {search.method}"
    if outcome.folder is None:
        left = f"{outcome.waiting} of {len(search.grid)} runs are still to be done by other shards"
        return [f"{name}: {left}; then run the same command without --shard"]
    if outcome.trial is None:
        return [f"{name}: no test split to score; the network is in {outcome.folder}"]
    notes = [f"{name}: {note}" for note in outcome.trial.notes]
    return [*notes, f"{name}: logged in {trials}; the network is in {outcome.folder}"]
