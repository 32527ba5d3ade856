from pathlib import Path

import numpy as np
import pytest
from conftest import write_photos
from waiting_threads import LIBGOMPS_OWN, Seconds, Work, report, verdict

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
    text = report(work, jobs=jobs, settings=[LIBGOMPS_OWN, PASSIVE], rounds=1, num_images=12, cpu=None)
    for job in jobs:
        rows = text.split(f"## {job.capitalize()}\n")[1].split("\n##")[0].splitlines()[-2:]
        assert [row.split(" | ")[0] for row in rows] == [f"| `{LIBGOMPS_OWN}`", f"| `{PASSIVE}`"]


def test_a_setting_has_to_hold_in_every_job_alone_and_two_at_once() -> None:
    own, cheap = Seconds([1.0, 1.0], [5.0, 5.0]), Seconds([1.02, 1.02], [2.0, 2.0])
    dear, crowded = Seconds([1.2, 1.2], [2.0, 2.0]), Seconds([1.0, 1.0], [3.0, 3.0])
    good, slow, spins = "GOMP_SPINCOUNT=1", "GOMP_SPINCOUNT=2", "GOMP_SPINCOUNT=3"
    probe = {LIBGOMPS_OWN: own, good: cheap, slow: cheap, spins: cheap}
    training = {LIBGOMPS_OWN: own, good: cheap, slow: dear, spins: crowded}
    assert f"in all of it: `{good}`." in verdict({"probe": probe, "training": training})
    assert "in all of it: none." in verdict({"probe": {LIBGOMPS_OWN: own}})
