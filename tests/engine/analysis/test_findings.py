import json
from functools import cache

import numpy as np
import pytest
from support.trial_cases import trial_of

from penultimate.engine.analysis.findings import Findings, find
from penultimate.store.errors import InputError
from penultimate.store.trials.trial import Trial

IMAGENET = {"a": 0.70, "b": 0.74, "c": 0.78, "d": 0.80}


def _study() -> list[Trial]:
    """Make trials of four backbones on three datasets: probes, training at two budgets, and a random network's."""
    trials = []
    for b, backbone in enumerate([*IMAGENET, "random"]):
        for d, dataset in enumerate(("cars", "dtd", "cifar10")):
            wrong = 40 - 5 * b + 4 * d + (b * d) % 3 if backbone != "random" else 70
            trials.append(trial_of(backbone=backbone, dataset=dataset, wrong=range(wrong)))
            if backbone == "random":
                continue
            for method, gain, steps in (("finetune", 6, 10), ("scratch", -9, 160)):
                for step, behind in ((steps, 8), (4 * steps, 0)):
                    trials.append(
                        trial_of(
                            backbone=backbone, dataset=dataset, method=method, wrong=range(wrong - gain + behind),
                            settings={"steps": step}, history=[{"step": step, "epoch": step / 5}],
                        )
                    )  # fmt: skip
    return trials


@cache  # used by several tests, changed by none
def _found() -> Findings:
    return find(_study(), imagenet=IMAGENET, num_resamples=100)


def test_one_log_gives_all_the_papers_answers() -> None:
    found = _found()
    assert set(found.analyses) == {"probe", "finetune", "scratch"}
    assert found.analyses["probe"].correlation.num_models == 4
    assert found.analyses["probe"].correlation.pearson_r > 0.9
    assert found.speedup is not None
    assert found.speedup.steps == pytest.approx(16)
    assert any("random left out of the correlation" in note for note in found.notes)


def test_fine_tuning_is_better_in_all_twelve_pairs_and_wilcoxon_says_how_surely() -> None:
    pairs = _found().setting_pairs
    (overall,) = [p for p in pairs if (p.first, p.second, p.dataset) == ("finetune", "probe", None)]
    assert (overall.comparison.num_better, overall.comparison.num_pairs) == (12, 12)
    assert overall.comparison.p_value == pytest.approx(2 / 2**12)
    assert overall.p_value_holm == pytest.approx(
        3 * overall.comparison.p_value
    )  # three pairs of settings, equally sure
    by_dataset = [p for p in pairs if (p.first, p.second) == ("finetune", "probe") and p.dataset]
    assert [p.dataset for p in by_dataset] == ["cars", "cifar10", "dtd"]
    assert all(p.comparison.p_value == pytest.approx(2 / 2**4) for p in by_dataset)


def test_every_number_is_json() -> None:
    subsets = [
        trial_of(backbone="a", dataset="cars", wrong=range(w), settings={"shots": k}, seed=s)
        for k, w in ((1, 60), (5, 50))
        for s in (0, 1)
    ]
    got = json.loads(
        json.dumps(find([*_study(), *subsets], imagenet=IMAGENET, num_resamples=100).as_json(), allow_nan=False)
    )
    assert {"rows", "contenders", "settings", "setting_pairs", "convergence", "data_size", "notes"} <= set(got)
    assert got["data_size"]["curves"][0]["shots_S"] == [1, 5]
    assert got["not_converged"] == []


def test_two_known_backbones_are_no_correlation_and_the_note_says_so() -> None:
    found = find([trial_of(backbone=b, wrong=range(9 + i)) for i, b in enumerate("ab")], imagenet=IMAGENET)
    assert not found.analyses
    assert any("needs 3 backbones of known ImageNet accuracy" in note for note in found.notes)


def test_numbers_rest_on_the_trials_alone() -> None:
    study = _study()
    shuffled = [study[i] for i in np.random.default_rng(0).permutation(len(study))]
    assert find(shuffled, imagenet=IMAGENET, num_resamples=100).as_json() == _found().as_json()


def test_an_empty_log_is_refused() -> None:
    with pytest.raises(InputError, match="no trial to analyse"):
        find([])


def test_each_network_counts_once_in_a_correlation_however_many_settings_were_tried() -> None:
    tried = [
        trial_of(backbone=backbone, wrong=range(50 - 7 * b + more), settings={"loss": loss})
        for b, backbone in enumerate(IMAGENET)
        for more, loss in ((0, "softmax"), (3, "svm"))
    ]
    found = find(tried, imagenet=IMAGENET, num_resamples=100)
    assert set(found.analyses) == {"probe (loss=softmax)", "probe (loss=svm)"}
    assert [each.correlation.num_models for each in found.analyses.values()] == [4, 4]
    (pair,) = [p for p in found.setting_pairs if p.dataset is None]
    assert (pair.comparison.num_better, pair.comparison.num_pairs) == (4, 4)
