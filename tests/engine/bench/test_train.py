"""The updates that are measured are those of a training run, and each side does as many."""

from pathlib import Path

import pytest

from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.bench.timing.processes import Turns, started
from penultimate.engine.bench.train import TrainBench, bench_train
from penultimate.engine.bench.train_sides import penultimates
from penultimate.engine.train.learner.learner import Learner
from penultimate.store.errors import InputError

TINY = TrainBench(size=32, batch_size=4, workers=1, rounds=1, updates=2, decoder="pillow")
REQUEST = BackboneRequest(model="test_efficientnet", weights="random")


@pytest.mark.slow
def test_every_side_trains_as_many_updates(photos: Path) -> None:
    report = bench_train([str(photos)], REQUEST, TINY, command=["penultimate"])
    assert [(line.name, line.items, line.unit) for line in report.measurements] == [
        (name, 2, "updates/s") for name in ("timm's loop", "one batch in memory", "penultimate")
    ]
    for line in report.measurements:
        assert line.details["train_batch_size"] == 4
        assert line.details["train_img_size"] == 32
        assert line.details["train_samples_per_sec"] == pytest.approx(4 * line.median)
        assert line.details["train_step_time"] == pytest.approx(1e3 / line.median)
    assert "penultimate:" in report.findings[0]


class _Hand:
    """A hand that gives a side its turns: so many, and then none."""

    def __init__(self, turns: int) -> None:
        self.left, self.done = turns, 0

    def ready(self) -> None:
        self.over(0)

    def over(self, count: int) -> None:
        self.done += count
        if not self.left:
            raise EOFError
        self.left -= 1


def test_the_measured_updates_are_those_of_a_run(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from penultimate.engine.bench.train import _work
    from penultimate.engine.images.load import load_labelled_images

    steps: list[int] = []
    update = Learner.update

    def counted(learner: Learner, step: int, *rest: object) -> object:
        steps.append(step)
        return update(learner, step, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "update", counted)
    work = _work(load_labelled_images([str(photos)]), REQUEST, TINY)
    hand = _Hand(turns=3)
    with pytest.raises(EOFError):
        penultimates(work, 2, hand)  # type: ignore[arg-type]  # a real small object
    assert hand.done == 6
    assert steps == list(range(6))


def _dies(turns: Turns) -> None:
    turns.ready()
    raise SystemExit(3)


@pytest.mark.slow
def test_a_process_that_dies_is_said() -> None:
    with started(_dies) as remote:
        assert remote.end() == 0  # it is ready
        with pytest.raises(RuntimeError, match="has ended before"):
            list(remote.turn())


def test_images_that_are_too_few_are_refused_before_a_process_is_started(photos: Path) -> None:
    with pytest.raises(InputError, match="batch size 32 is larger"):
        bench_train([str(photos)], REQUEST, TINY.replace(batch_size=None), command=["penultimate"])
