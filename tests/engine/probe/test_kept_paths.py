"""A path that was kept makes the next probe quicker and changes nothing, whatever state its file is in."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from obstore.store import MemoryStore
from support.dying_objects import DyingObjects, Killed
from support.memory_objects import MemoryObjects
from support.probe_cases import mixture

from penultimate.engine.probe.get_or_fit import get_or_fit
from penultimate.engine.probe.kept_paths import KeptPaths, KeptSolution, PathIdentity
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import run_probe
from penultimate.engine.probe.reader import FeatureReader
from penultimate.engine.probe.result import UNKNOWN, Probe, SolveReport
from penultimate.engine.probe.settings import ProbeResources, ProbeSettings
from penultimate.store.feature_set import FeatureSet
from penultimate.store.objects.objects import Objects
from penultimate.store.objects.open import open_objects
from penultimate.store.trials.trial import Trial
from penultimate.store.trials.trial_log import TrialLog

PATH = RegularizationPath.parse("1e-3:1e3:13")
SETTINGS = ProbeSettings(path=PATH)
IDENTITY = PathIdentity(features={"images": "0123"}, loss="softmax", transform="none", class_weight=None)
SHAPE = (3, 5)


CERTIFIED = SolveReport(
    status="certified",
    steps=3,
    passes=4.5,
    curvature_passes=2.0,
    objective=1.25,
    gradient_norm=1e-7,
    gap=1e-9,
    seconds=0.5,
    precision="float32/float32",
)


def solutions(*l2: float, seed: int = 0, report: SolveReport = CERTIFIED) -> list[KeptSolution]:
    rng = np.random.default_rng(seed)
    return [
        KeptSolution(
            probe=Probe(
                weight_KD=rng.normal(size=SHAPE).astype(np.float32),
                bias_K=np.array([1, -np.inf, 2], np.float32),
                l2=value,
                report=report,
            ),
            data="of these rows",
            tol=1e-4,
        )
        for value in l2
    ]


def same(found: list[KeptSolution], wanted: list[KeptSolution]) -> None:
    assert [each.probe.l2 for each in found] == [each.probe.l2 for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.probe.weight_KD, other.probe.weight_KD)
        np.testing.assert_array_equal(one.probe.bias_K, other.probe.bias_K)
        assert (one.probe.report, one.data, one.tol) == (other.probe.report, other.data, other.tol)


@pytest.fixture(params=["folder", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return open_objects(tmp_path) if request.param == "folder" else MemoryObjects(MemoryStore())


def test_what_is_read_is_what_was_kept(objects: Objects) -> None:
    kept = KeptPaths(objects, 1 << 20)
    assert kept.read(IDENTITY, SHAPE) == []
    path = solutions(10.0, 0.1)
    kept.keep(IDENTITY, path)
    same(kept.read(IDENTITY, SHAPE), path)


def test_a_solution_without_a_certificate_is_kept_as_that(objects: Objects) -> None:
    kept, stalled = KeptPaths(objects, 1 << 20), replace(CERTIFIED, status="stalled", gap=np.inf)
    kept.keep(IDENTITY, solutions(1.0, report=stalled))
    same(kept.read(IDENTITY, SHAPE), solutions(1.0, report=UNKNOWN))


def test_a_certificate_is_of_its_data_and_of_its_tolerance_and_looser_ones() -> None:
    (solution,) = solutions(1.0)
    assert solution.solves("of these rows", 1e-4)
    assert solution.solves("of these rows", 1e-3)
    assert not solution.solves("of these rows", 1e-5)
    assert not solution.solves("of other rows", 1e-3)
    (unknown,) = solutions(1.0, report=UNKNOWN)
    assert not unknown.solves("of these rows", 1e-4)
    report = solution.without_costs().probe.report
    assert (report.steps, report.passes, report.curvature_passes, report.seconds) == (0, 0, 0, 0)
    assert (report.objective, report.gap) == (CERTIFIED.objective, CERTIFIED.gap)


def test_other_features_labels_splits_losses_and_transforms_find_nothing(objects: Objects) -> None:
    kept = KeptPaths(objects, 1 << 20)
    kept.keep(IDENTITY, solutions(1.0))
    for other in (
        replace(IDENTITY, features={"images": "0124"}),  # the digest of ids, contents, labels and splits
        replace(IDENTITY, features={"images": "0123", "weights": "x"}),
        replace(IDENTITY, loss="logistic"),
        replace(IDENTITY, transform="l2"),
        replace(IDENTITY, splits=("train", "val")),
    ):
        assert kept.read(other, SHAPE) == []
    assert kept.read(IDENTITY, (3, 6)) == []


def test_other_class_weights_begin_at_the_same_path_until_they_have_their_own(objects: Objects) -> None:
    kept, balanced = KeptPaths(objects, 1 << 20), replace(IDENTITY, class_weight="balanced")
    kept.keep(IDENTITY, solutions(1.0))
    same(kept.read(balanced, SHAPE), solutions(1.0))
    kept.keep(balanced, solutions(1.0, seed=1))
    same(kept.read(balanced, SHAPE), solutions(1.0, seed=1))
    same(kept.read(IDENTITY, SHAPE), solutions(1.0))


def test_another_grid_joins_what_is_there_and_the_newest_of_a_strength_stays(objects: Objects) -> None:
    kept = KeptPaths(objects, 1 << 20)
    kept.keep(IDENTITY, solutions(100.0, 1.0))
    kept.keep(IDENTITY, solutions(10.0, 1.0, seed=1))
    ten, one = solutions(10.0, 1.0, seed=1)
    same(kept.read(IDENTITY, SHAPE), [solutions(100.0)[0], ten, one])


def test_a_file_is_no_larger_than_was_said_and_has_both_ends_of_the_path(objects: Objects) -> None:
    each = 4 * SHAPE[0] * (SHAPE[1] + 1)
    path = solutions(*np.geomspace(1e3, 1e-3, 13).tolist())
    KeptPaths(objects, 4 * each + 5).keep(IDENTITY, path)
    found = KeptPaths(objects, 0).read(IDENTITY, SHAPE)
    same(found, [path[0], path[4], path[8], path[12]])
    tensors = objects.size(IDENTITY.name) - int.from_bytes((objects.get(IDENTITY.name) or b"")[:8], "little") - 8
    assert tensors <= 4 * each
    KeptPaths(objects, 0).keep(replace(IDENTITY, loss="logistic"), path)
    assert not objects.exists(replace(IDENTITY, loss="logistic").name)


def test_a_changed_byte_anywhere_is_noticed(objects: Objects) -> None:
    kept = KeptPaths(objects, 1 << 20)
    kept.keep(IDENTITY, solutions(1.0))
    content = objects.get(IDENTITY.name)
    assert content is not None
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        objects.put(IDENTITY.name, bytes(changed))
        found = kept.read(IDENTITY, SHAPE)
        if found:  # a space in the header's padding, or the letter of a key that nobody reads
            same(found, solutions(1.0))
    for length in (0, 7, 8, 100, len(content) - 1):
        objects.put(IDENTITY.name, content[:length])
        assert kept.read(IDENTITY, SHAPE) == []


def test_of_two_writers_one_is_last_and_its_file_is_whole(objects: Objects) -> None:
    first, second = KeptPaths(objects, 1 << 20), KeptPaths(objects, 1 << 20)
    first.keep(IDENTITY, solutions(1.0))
    second.keep(IDENTITY, solutions(1.0, seed=1))
    same(first.read(IDENTITY, SHAPE), solutions(1.0, seed=1))


def stored() -> FeatureSet:
    features_ND, labels_N = mixture(900, 12, 4, apart=0.7)
    return FeatureSet.of(features_ND, labels_N, np.array(["train", "val", "test"])[np.arange(900) % 3])


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return stored()


def alike(found: Trial, wanted: Trial) -> None:
    """Assert that both are the same result: objectives within their certified gaps, the same choice and predictions."""
    assert found.converged
    assert found.chosen["l2"] == wanted.chosen["l2"]
    for one, other in zip(found.history, wanted.history, strict=True):
        assert one["l2"] == other["l2"]
        assert one["objective"] == pytest.approx(other["objective"], rel=2e-4)  # each is within 1e-4
        assert one["weight_norm"] == pytest.approx(other["weight_norm"], rel=5e-3)
    differing = np.mean(found.arrays["test_predictions"] != wanted.arrays["test_predictions"])
    assert differing <= 2 / 300


OTHERS = {
    "score": ProbeSettings(path=PATH, choose_by="log_loss"),
    "metric": ProbeSettings(path=PATH, metric="mean_per_class"),
    "grid": ProbeSettings(path=RegularizationPath.parse("1e-2:1e2:8")),
    "wider grid": ProbeSettings(path=RegularizationPath.parse("1e-5:1e5:9")),
    "tolerance": ProbeSettings(path=PATH, tol=1e-6),
    "class weight": ProbeSettings(path=PATH, class_weight="balanced"),
}


OTHERS_ON_THE_SAME_PATH = [ProbeSettings(path=PATH, choose_by=score) for score in ("log_loss", "auroc", "brier")]

SAME = ("l2", "objective", "gap", "gradient_norm", "weight_norm", "train_loss", "val")


@pytest.mark.parametrize("name", OTHERS)
def test_other_settings_begin_at_the_path_and_end_where_they_would_without(
    features: FeatureSet, tmp_path: Path, name: str
) -> None:
    log, lines = TrialLog.create(tmp_path / "trials"), list[str]()
    get_or_fit(features, SETTINGS, log, log=lines.append)
    found = get_or_fit(features, OTHERS[name], log, log=lines.append)
    alike(found, run_probe(features, OTHERS[name]).trial)
    assert any("needed no step from the path that was kept" in line for line in lines)
    if name in ("score", "metric"):
        assert {row["steps"] for row in found.history if row["fitted_on"] == "train"} == {0}
        assert all(row["gap"] is not None for row in found.history)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of strengths of each fit from now on."""
    fits: list[int] = []
    fit = FeatureReader.fit

    def counting(self: FeatureReader, rows: Any, path: RegularizationPath, **options: Any) -> list[Probe]:
        fits.append(len(path))
        return fit(self, rows, path, **options)

    monkeypatch.setattr(FeatureReader, "fit", counting)
    return fits


@pytest.mark.parametrize("memory_bytes", [None, 90_000])
def test_another_score_on_the_same_path_fits_nothing_but_another_choice(
    features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int | None
) -> None:
    log, resources = TrialLog.create(tmp_path / "trials"), ProbeResources(memory_bytes=memory_bytes)
    first = get_or_fit(features, SETTINGS, log, log=lambda line: None, resources=resources)
    fits = counted(monkeypatch)
    chosen, expected = [first.chosen["l2"]], 0
    for settings in (*OTHERS_ON_THE_SAME_PATH, SETTINGS.replace(tol=1e-3)):
        found = get_or_fit(features, settings, log, log=lambda line: None, resources=resources)
        expected += found.chosen["l2"] not in chosen  # the refit alone, where no trial before chose that strength
        chosen.append(found.chosen["l2"])
        assert fits == [1] * expected
        for one, other in zip(found.history[:-1], first.history[:-1], strict=True):
            assert [one[name] for name in SAME] == [other[name] for name in SAME]
            assert one["steps"] == one["passes"] == one["seconds"] == 0
    assert len(set(chosen)) < len(chosen)


def test_balanced_weights_of_classes_of_one_size_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features_ND, _ = mixture(900, 12, 4, apart=0.7)
    row_N = np.arange(900)
    features = FeatureSet.of(features_ND, row_N // 3 % 4, np.array(["train", "val", "test"])[row_N % 3])
    log = TrialLog.create(tmp_path / "trials")
    first = get_or_fit(features, SETTINGS, log, log=lambda line: None)
    fits = counted(monkeypatch)
    second = get_or_fit(features, SETTINGS.replace(class_weight="balanced"), log, log=lambda line: None)
    assert fits == []
    assert second.id != first.id
    assert (second.value, second.chosen) == (first.value, first.chosen)


def test_features_that_differ_in_one_bit_have_every_certificate_made_anew(
    features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = TrialLog.create(tmp_path / "trials")
    get_or_fit(features, SETTINGS, log, log=lambda line: None)
    other = features.features.copy()
    row = features.rows("train")[0]
    other[row, 0] = np.nextafter(other[row, 0], np.inf)
    again = replace(features, array=other)  # of the same key, as of images embedded on another machine
    fits = counted(monkeypatch)
    found = get_or_fit(again, SETTINGS.replace(choose_by="log_loss"), log, log=lambda line: None)
    assert fits == [len(PATH), 1]
    assert all(row["passes"] > 0 for row in found.history)
    alike(found, run_probe(again, SETTINGS.replace(choose_by="log_loss")).trial)


def test_only_the_strengths_that_were_not_kept_are_fitted(
    features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = TrialLog.create(tmp_path / "trials")
    get_or_fit(features, SETTINGS, log, log=lambda line: None)
    fits = counted(monkeypatch)
    wider = SETTINGS.replace(path=RegularizationPath(l2=(1e4, *PATH.l2)))
    found = get_or_fit(features, wider, log, log=lambda line: None)
    assert fits in ([1], [1, 1])
    alike(found, run_probe(features, wider).trial)


def test_of_a_path_larger_than_its_room_the_same_strengths_stay(
    features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, resources = TrialLog.create(tmp_path / "trials"), ProbeResources(path_bytes=4 * 4 * 4 * 13)  # four strengths
    identity = PathIdentity(features=features.key.fields, loss="softmax", transform="none", class_weight=None)
    get_or_fit(features, SETTINGS, log, log=lambda line: None, resources=resources)
    kept = [each.probe.l2 for each in KeptPaths(log.objects, 0).read(identity, (4, 12))]
    assert kept == [PATH.l2[n] for n in (0, 4, 8, 12)]
    fits = counted(monkeypatch)
    get_or_fit(features, SETTINGS.replace(choose_by="log_loss"), log, log=lambda line: None, resources=resources)
    assert fits[0] == len(PATH) - 4
    assert [each.probe.l2 for each in KeptPaths(log.objects, 0).read(identity, (4, 12))] == kept


def without_worth(
    path: list[KeptSolution], make: Callable[[np.random.Generator, Probe], np.ndarray]
) -> list[KeptSolution]:
    rng = np.random.default_rng(0)
    probes = [replace(each.probe, weight_KD=make(rng, each.probe).astype(np.float32)) for each in path]
    return [replace(each, probe=probe, data="something else") for each, probe in zip(path, probes, strict=True)]


STALE: dict[str, Callable[[np.random.Generator, Probe], np.ndarray]] = {
    "noise": lambda rng, probe: rng.normal(size=probe.weight_KD.shape),
    "huge": lambda rng, probe: 1e30 * rng.normal(size=probe.weight_KD.shape),
    "largest": lambda rng, probe: np.full(probe.weight_KD.shape, 3e38),
    "of other classes": lambda rng, probe: probe.weight_KD[::-1],
    "the negative": lambda rng, probe: -probe.weight_KD,
    "nearly right": lambda rng, probe: probe.weight_KD * 1.01,
    "zero": lambda rng, probe: np.zeros(probe.weight_KD.shape),
    "not a number": lambda rng, probe: np.full(probe.weight_KD.shape, np.nan),
}


def in_short(name: str, streamed: bool, loss: str) -> bool:
    """Return whether a case is among those that ``make test`` runs: each way of fitting, and each loss, once."""
    return name == "largest" if loss == "softmax" else name == "the negative" and not streamed


@pytest.mark.parametrize(
    ("name", "streamed", "loss"),
    [
        pytest.param(*case, marks=() if in_short(*case) else pytest.mark.slow)
        for case in itertools.product(STALE, (False, True), ("softmax", "logistic"))
    ],
)
def test_a_path_of_something_else_under_the_right_name_changes_no_result(
    features: FeatureSet, tmp_path: Path, name: str, streamed: bool, loss: str
) -> None:
    settings = ProbeSettings(path=RegularizationPath.parse("1e-1:1e3:5"), loss=loss)
    resources = ProbeResources(memory_bytes=90_000 if streamed else None)
    log = TrialLog.create(tmp_path / "trials")
    get_or_fit(features, settings, log, log=lambda line: None, resources=resources)
    identity = PathIdentity(features=features.key.fields, loss=loss, transform="none", class_weight=None)
    kept = KeptPaths(log.objects, 1 << 20)
    kept.keep(identity, without_worth(kept.read(identity, (4, 12)), STALE[name]))
    other = settings.replace(choose_by="log_loss")
    found = get_or_fit(features, other, log, log=lambda line: None, resources=resources)
    alike(found, run_probe(features, other, resources=resources).trial)


def test_few_shots_and_uncertified_solvers_keep_nothing(features: FeatureSet, tmp_path: Path) -> None:
    log = TrialLog.create(tmp_path / "trials")
    few = RegularizationPath(l2=(1.0,))
    for settings in (ProbeSettings(path=few, shots=3), ProbeSettings(path=few, solver="sklearn")):
        get_or_fit(features, settings, log, log=lambda line: None)
    get_or_fit(features, SETTINGS, log, log=lambda line: None, resources=ProbeResources(path_bytes=0))
    assert not (tmp_path / "trials" / "paths").exists()


@pytest.mark.slow
def test_a_kill_at_any_change_leaves_a_log_that_goes_on_to_the_same_trial(features: FeatureSet, tmp_path: Path) -> None:
    settings = ProbeSettings(path=RegularizationPath.parse("0.1:10:3"))
    wanted = run_probe(features, settings).trial
    kills = 0
    for number, after in itertools.product(range(7), (False, True)):
        folder = tmp_path / f"{number}{after}"
        log = TrialLog.create(folder)
        log.objects = DyingObjects(folder, at=number, after=after)
        try:
            get_or_fit(features, settings, log, log=lambda line: None)
        except Killed:
            kills += 1
        again = TrialLog(folder)
        if not again.trials():  # else the same command would begin elsewhere, and end in other last digits
            assert not list(folder.glob("paths/*.safetensors"))
        alike(get_or_fit(features, settings, again, log=lambda line: None), wanted)
        alike(get_or_fit(features, settings.replace(tol=1e-5), again, log=lambda line: None), wanted)
        assert len(again.trials()) == 2
    assert kills > 4  # a partial file and its rename, before and after, of the path, the head and the arrays
