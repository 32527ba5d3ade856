"""Scores agree with their definitions written a second time, and what is kept gives them again."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from penultimate.engine.scoring import outputs as kept_of
from penultimate.engine.scoring.outputs import Outputs
from penultimate.engine.scoring.reliability import Reliability
from penultimate.engine.scoring.scores import CHOICES, OF_PROBABILITIES, goodness, score_all, value_of
from penultimate.engine.scoring.temperature import fit_temperature
from penultimate.store.errors import InputError
from penultimate.store.labels import PRESENT, UNCOUNTED

RNG = np.random.default_rng(0)
LABELS_N = RNG.integers(4, size=5000)
SCORES_NK = (RNG.normal(size=(5000, 4)) + 1.5 * np.eye(4)[LABELS_N]).astype(np.float32)
ONE = Outputs(scores_NK=SCORES_NK, labels=LABELS_N, loss="softmax")


def several(loss: str = "logistic") -> Outputs:
    labels_NK = (RNG.random((300, 3)) < 0.3).astype(np.uint8)
    labels_NK[::7, 1] = UNCOUNTED
    scores_NK = (RNG.normal(size=(300, 3)) + 2.0 * (labels_NK == PRESENT) - 1).astype(np.float32)
    return Outputs(scores_NK=scores_NK, labels=labels_NK, loss=loss)


def test_scores_of_one_label_are_their_definitions() -> None:
    found, p_NK = score_all(ONE), np.exp(SCORES_NK.astype(float))
    p_NK /= p_NK.sum(1, keepdims=True)
    rows, onehot = np.arange(5000), np.eye(4)[LABELS_N]
    assert found["log_loss"] == pytest.approx(-np.log(p_NK[rows, LABELS_N]).mean())
    assert found["brier"] == pytest.approx(((p_NK - onehot) ** 2).sum(1).mean())
    assert found["auroc"] == pytest.approx(roc_auc_score(LABELS_N, p_NK, multi_class="ovr"))
    assert found["mean_per_class"] == pytest.approx(balanced_accuracy_score(LABELS_N, p_NK.argmax(1)))
    right, sure = np.asarray(p_NK.argmax(1) == LABELS_N), p_NK.max(1)
    bins = np.ceil(sure * 15).astype(int)
    gaps = [(bins == b).mean() * abs(right[bins == b].mean() - sure[bins == b].mean()) for b in np.unique(bins)]
    assert found["ece"] == pytest.approx(sum(gaps))
    true_K, said_K = np.bincount(LABELS_N), np.bincount(p_NK.argmax(1))
    f1_K = 2 * np.bincount(LABELS_N[right], minlength=4) / (true_K + said_K)
    assert found["macro_f1"] == pytest.approx(f1_K.mean())


def test_of_several_labels_what_is_uncounted_does_not_count() -> None:
    outputs = several()
    changed_NK = outputs.scores_NK.copy()
    changed_NK[outputs.labels == UNCOUNTED] = 99
    changed = Outputs(scores_NK=changed_NK, labels=outputs.labels, loss="logistic")
    assert score_all(changed) == score_all(outputs)
    truth, p = outputs.pairs()
    assert score_all(outputs)["log_loss"] == pytest.approx(-np.log(np.where(truth, p, 1 - p)).mean())
    assert score_all(outputs)["brier"] == pytest.approx(((p - truth) ** 2).mean())


@pytest.mark.parametrize("loss", ["softmax", "logistic", "squared_hinge"])
def test_auroc_of_scores_with_ties_and_absent_classes_is_scikit_learn_s(loss: str) -> None:
    scores_NK = np.pad(SCORES_NK[:300], ((0, 0), (0, 1))).round().astype(np.float32)
    labels, truth_NK = LABELS_N[:300], np.eye(5)[LABELS_N[:300]]
    counted_NK = np.ones((300, 5), bool)
    if loss != "softmax":
        labels = several().labels[:, [0, 1, 2, 2, 2]]
        labels[:, 4] = PRESENT
        truth_NK, counted_NK = labels == PRESENT, labels != UNCOUNTED
    outputs = Outputs(scores_NK=scores_NK, labels=labels, loss=loss)
    by_NK = outputs.probabilities_NK if outputs.has_probabilities else scores_NK
    each = [roc_auc_score(truth_NK[counted_NK[:, k], k], by_NK[counted_NK[:, k], k]) for k in range(4)]
    assert value_of("auroc", outputs) == pytest.approx(np.mean(each), rel=1e-12)


def test_auroc_refuses_a_score_that_is_not_a_number() -> None:
    scores_NK = SCORES_NK[:300].copy()
    scores_NK[7, 2] = np.nan
    with pytest.raises(ValueError, match="nan"):
        value_of("auroc", Outputs(scores_NK=scores_NK, labels=LABELS_N[:300], loss="squared_hinge"))


def test_what_has_no_probabilities_has_no_score_of_them() -> None:
    hinge = Outputs(scores_NK=SCORES_NK, labels=LABELS_N, loss="squared_hinge")
    assert set(CHOICES) - {"map11"} - set(score_all(hinge)) == set(OF_PROBABILITIES)
    with pytest.raises(InputError, match="no temperature"):
        fit_temperature(hinge)


def test_an_undefined_score_is_absent_and_refused_as_a_choice() -> None:
    single = Outputs(scores_NK=SCORES_NK[:3], labels=np.zeros(3, int), loss="softmax")
    assert "auroc" not in score_all(single)
    with pytest.raises(InputError, match="auroc is not defined"):
        value_of("auroc", single)
    assert goodness("log_loss", 2.0) < goodness("log_loss", 1.0)
    assert goodness("auroc", 2.0) > goodness("auroc", 1.0)


@pytest.mark.parametrize("loss", ["softmax", "logistic"])
@pytest.mark.parametrize("true", [1e-4, 0.25, 1.0, 3.0, 1e4])
def test_the_temperature_that_scores_were_multiplied_by_is_found(true: float, loss: str) -> None:
    """Labels drawn from the probabilities of the scores are calibrated at 1; 20,000 of them tell it to some 2 %."""
    rng = np.random.default_rng(1)
    scores_NK = 2 * rng.normal(size=(20_000, 3))
    if loss == "softmax":
        noise = rng.gumbel(size=scores_NK.shape)
        labels = (scores_NK + noise).argmax(1)
    else:
        labels = (rng.random(scores_NK.shape) < 1 / (1 + np.exp(-scores_NK))).astype(np.uint8)
    outputs = Outputs(scores_NK=(true * scores_NK).astype(np.float32), labels=labels, loss=loss)
    assert fit_temperature(outputs) == pytest.approx(true, rel=0.06)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_samples_that_are_all_right_tell_of_no_temperature(scale: float) -> None:
    scores_NK = scale * np.eye(3, dtype=np.float32)
    assert fit_temperature(Outputs(scores_NK=scores_NK, labels=np.arange(3), loss="softmax")) is None
    several_NK = (2 * scores_NK - scale).astype(np.float32)
    assert fit_temperature(Outputs(scores_NK=several_NK, labels=np.eye(3), loss="logistic")) is None


def test_equal_scores_tell_of_no_temperature() -> None:
    equal = Outputs(scores_NK=np.ones((4, 3), np.float32), labels=np.arange(4) % 3, loss="softmax")
    assert fit_temperature(equal) is None


def test_a_sample_whose_class_is_ruled_out_has_no_say() -> None:
    scores_NK = np.array([[1, 0.5, 0], [0, 0.5, 1], [0, 1, 0]], np.float32)
    without = Outputs(scores_NK=scores_NK, labels=np.array([0, 1, 1]), loss="softmax")
    ruled_out = np.array([[0, -np.inf, -np.inf]], np.float32)
    with_it = Outputs(scores_NK=np.vstack([scores_NK, ruled_out]), labels=np.array([0, 1, 1, 2]), loss="softmax")
    assert fit_temperature(with_it) == pytest.approx(fit_temperature(without), rel=2e-3)


def test_kept_float16_scores_give_the_probabilities_again() -> None:
    arrays = ONE.kept(np.arange(5000).astype(str), [*"abcd"])
    assert arrays["test_class_scores"].dtype == np.float16
    again = Outputs(scores_NK=arrays["test_class_scores"].astype(np.float32), labels=LABELS_N, loss="softmax")
    np.testing.assert_allclose(again.probabilities_NK, ONE.probabilities_NK, atol=2e-3)  # 11 bits of logits up to 8
    assert (arrays["test_predictions"] == SCORES_NK.argmax(1)).all()


def test_beyond_the_limit_two_probabilities_a_sample_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_of, "KEPT_BYTES", 2 * SCORES_NK.size - 1)
    arrays = ONE.kept(np.arange(5000).astype(str), [*"abcd"])
    assert "test_class_scores" not in arrays
    p_NK = ONE.probabilities_NK
    np.testing.assert_allclose(arrays["test_probability"], p_NK.max(1), rtol=1e-6)
    np.testing.assert_allclose(arrays["test_probability_true"], p_NK[np.arange(5000), LABELS_N], rtol=1e-6)
    hinge = Outputs(scores_NK=SCORES_NK, labels=LABELS_N, loss="squared_hinge")
    assert set(hinge.kept(np.arange(5000), [*"abcd"])) == {"test_ids", "test_labels", "class_names", "test_predictions"}


def test_every_prediction_is_in_one_bin_and_edges_belong_to_the_lower() -> None:
    reliability = Reliability.of(np.array([0.0, 0.2, 0.2 + 1e-9, 1.0]), np.array([False, True, True, True]))
    assert reliability.count_B.tolist() == [1, 1, 1, 1]
    assert reliability.error == pytest.approx((0 + 0.8 + 0.8 + 0) / 4)
