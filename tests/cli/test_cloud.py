"""The verbs on stores in a bucket give the same rows as with folders, errors of one line, and never credentials."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("obstore", reason="needs the extra `cloud`")

from support.s3_server import BUCKET, ENVIRONMENT, Proxy, every
from support.store_cases import small_job

from penultimate.cli.main import run
from penultimate.store.feature_store import FeatureStore
from penultimate.store.objects.open import open_objects
from penultimate.store.objects.remote import RemoteObjects

SECRETS = [value for name, value in ENVIRONMENT.items() if name != "AWS_REGION"]


def test_features_in_a_bucket_are_probed_and_shown_and_credentials_are_seen_nowhere(
    proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    base, options = f"s3://{BUCKET}/cli", f"?endpoint={proxy.endpoint}"
    places = {"there": (f"{base}/store{options}", f"{base}/trials{options}")}
    places["here"] = (str(tmp_path / "store"), str(tmp_path / "trials"))
    shown = {}
    for where, (store, trials) in places.items():
        proxy.plan = every(5, "503", "GET", "PUT")
        small_job().write(FeatureStore.create(store))
        assert run(["store", "ls", store]) == run(["store", "verify", store]) == 0
        assert run(["probe", store, "--trials", trials, "--l2", "1e-2:1:3"]) == 0
        capsys.readouterr()
        assert run(["show", trials, "--json"]) == 0
        shown[where] = json.loads(capsys.readouterr().out)
    assert [row | {"created": ""} for row in shown["there"]] == [row | {"created": ""} for row in shown["here"]]
    proxy.plan = lambda method, path: "403"
    assert run(["store", "ls", places["there"][0]]) == 2
    proxy.plan = lambda method, path: "500"
    assert run(["store", "ls", places["there"][0]]) == 1
    said = "".join(capsys.readouterr()) + caplog.text
    assert f"{base}/store/zarr.json could not be read or written in 5 attempts" in said
    proxy.plan = lambda method, path: None
    objects = open_objects(f"{base}{options}")
    assert isinstance(objects, RemoteObjects)
    kept = b"".join(content or b"" for content in objects.get_many(objects.walk("")))
    assert len(kept) > 10_000
    for secret in SECRETS:
        assert secret not in said
        assert secret.encode() not in kept


@pytest.mark.slow
def test_readouts_in_a_bucket_are_those_in_a_folder_though_requests_fail(
    proxy: Proxy, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy.plan = every(5, "503", "GET", "PUT")
    places = (f"s3://{BUCKET}/readouts/store?endpoint={proxy.endpoint}", str(tmp_path / "store"))
    network = ["--model", "test_vit", "--weights", "random", "--workers", "1", "--decoder", "pillow", "--no-cache"]
    for store in places:
        assert run(["extract", str(photos), "--store", store, *network, "--readout", "penultimate,block:2"]) == 0
        capsys.readouterr()
        assert run(["extract", str(photos), "--store", store, *network, "--readout", "block:2,last4", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [(row["readout"], row["embedded"]) for row in rows] == [("block:2", 0), ("last4", 24)]
        assert run(["store", "verify", store]) == 0
    there, here = (FeatureStore(store) for store in places)
    keys = here.keys()
    assert (there.keys(), len(keys)) == (keys, 3)
    for key in keys:
        np.testing.assert_array_equal(there.read(key).features, here.read(key).features)


def test_an_address_without_the_extra_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.startswith("penultimate.store.objects.remote")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert run(["store", "ls", "s3://bucket/store"]) == 2
    assert "pip install 'penultimate[cloud]'" in capsys.readouterr().err


def test_a_folder_needs_nothing_of_the_extra(tmp_path: Path) -> None:
    job = small_job()
    job.write(FeatureStore.create(tmp_path / "store"))
    script = (
        "import sys; sys.modules['obstore'] = sys.modules['boto3'] = None\n"
        "from penultimate.store.feature_store import FeatureStore\n"
        f"store = FeatureStore({str(tmp_path / 'store')!r}); print(store.read(store.keys()[0]).features[0, 0])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert np.float32(found) == job.features_MD[0, 0]
