import os
from pathlib import Path

import numpy as np
import pytest
from support.photographs import write_photos
from waiting_threads import LIBGOMPS_OWN, Seconds, Work, in_force, report, verdict

from penultimate.engine.bench.timing.turns import TurnOptions

PASSIVE = "OMP_WAIT_POLICY=passive"


@pytest.mark.slow
def test_every_job_is_timed_alone_and_two_at_once(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    labels_N = np.arange(60) % 3
    np.save(tmp_path / "y.npy", labels_N)
    features_ND = np.random.default_rng(0).normal(size=(60, 8)) + labels_N[:, None]
    np.save(tmp_path / "X.npy", features_ND.astype(np.float32))
    photos = write_photos(tmp_path / "photos", images_per_class=4)
    work = Work(features=tmp_path, images=photos, network="test_efficientnet", strengths=3, batch_size=4, steps=1)
    jobs = ["probe", "extraction", "training"]
    options = TurnOptions(rounds=1)
    found = report(work, jobs=jobs, settings=[LIBGOMPS_OWN, PASSIVE], options=options, num_images=12)
    for job in jobs:
        for together, items in (("alone", 1), ("two at once", 2)):
            group = [each for each in found.measurements if each.group == f"{job.capitalize()}, {together}"]
            assert [(each.name, each.items) for each in group] == [(LIBGOMPS_OWN, items), (PASSIVE, items)]
    assert [row["job"] for row in found.tables["What a setting costs alone, and two at once"]] == [
        job for job in jobs for _ in range(2)
    ]


def test_a_setting_has_to_hold_in_every_job_alone_and_two_at_once() -> None:
    own, cheap = Seconds([1.0, 1.0], [5.0, 5.0]), Seconds([1.02, 1.02], [2.0, 2.0])
    dear, crowded = Seconds([1.2, 1.2], [2.0, 2.0]), Seconds([1.0, 1.0], [3.0, 3.0])
    good, slow, spins = "GOMP_SPINCOUNT=1", "GOMP_SPINCOUNT=2", "GOMP_SPINCOUNT=3"
    probe = {LIBGOMPS_OWN: own, good: cheap, slow: cheap, spins: cheap}
    training = {LIBGOMPS_OWN: own, good: cheap, slow: dear, spins: crowded}
    assert f"in all of it: {good}." in verdict({"probe": probe, "training": training})
    assert "in all of it: none." in verdict({"probe": {LIBGOMPS_OWN: own}})


def test_a_setting_is_in_the_environment_of_what_is_started_meanwhile_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    with in_force(PASSIVE):
        assert os.environ["OMP_WAIT_POLICY"] == "passive"
        assert "GOMP_SPINCOUNT" not in os.environ
    assert os.environ["GOMP_SPINCOUNT"] == "77"
    assert "OMP_WAIT_POLICY" not in os.environ
