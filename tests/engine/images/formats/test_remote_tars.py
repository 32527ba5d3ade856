"""Tars in a bucket are the image set that the same tars in a folder are, and a server that fails spoils no image."""

import io
import itertools
import json
import pickle
import tarfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

pytest.importorskip("obstore", reason="needs the extra `cloud`")

from support.s3_server import BUCKET, Proxy, every

from penultimate.engine.images.decode.pillow import PillowDecoder
from penultimate.engine.images.digest_cache import DigestCache
from penultimate.engine.images.formats import spool
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.load import load_images
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.images.summary import summary_of
from penultimate.store.errors import InputError, StoreError, VanishedImageError
from penultimate.store.objects.open import open_objects

NUMBERS = itertools.count()


def tar_of(folder: Path, names: list[str]) -> bytes:
    """Write photographs as a WebDataset tar: ``<name>.jpg`` and ``<name>.cls``."""
    members: dict[str, bytes] = {}
    for name in names:
        members[f"{name.replace('/', '_')}.jpg"] = (folder / f"{name}.jpg").read_bytes()
        members[f"{name.replace('/', '_')}.cls"] = name[:3].encode()
    return tar_with(members)


def tar_with(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def location(proxy: Proxy, photos: Path, tmp_path: Path) -> str:
    """Return the address of a folder of a bucket, with the tars that also lie in ``tmp_path / 'tars'``."""
    folder = f"images {next(NUMBERS)}"
    objects = open_objects(f"s3://{BUCKET}/{folder}?endpoint={proxy.endpoint}")
    names = sorted(str(path.relative_to(photos).with_suffix("")) for path in photos.rglob("*.jpg"))
    (tmp_path / "tars").mkdir()
    for number in range(3):
        content = tar_of(photos, names[number::3])
        (tmp_path / "tars" / f"pets-{number:03d}.tar").write_bytes(content)
        objects.put(f"pets-{number:03d}.tar", content)
    objects.put("README.txt", b"not a tar")
    return f"s3://{BUCKET}/{folder}"


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep nothing of a tar on the disk, as of one too large."""
    monkeypatch.setattr(spool, "SHARE_OF_FREE_SPACE", 0.0)


def pixels(images: ImageSet) -> dict[str, object]:
    view = Preprocess(height=16, width=16, resize="whole", mean=(0, 0, 0), std=(1, 1, 1))
    found: dict[str, object] = {}
    for batch in PillowDecoder(num_workers=2).batches(images, np.arange(len(images)), [view], batch_size=8):
        assert not batch.failed
        found |= {str(images.ids_N[row]): batch.views[0][location] for location, row in enumerate(batch.indices_B)}
    return found


@pytest.mark.parametrize("spec", ["/", "/pets-{000..002}.tar", "/pets-*.tar"])
def test_tars_in_a_bucket_are_the_set_of_the_same_tars_in_a_folder(
    proxy: Proxy, location: str, tmp_path: Path, spec: str
) -> None:
    images = load_images(f"{location}{spec}?endpoint={proxy.endpoint}")
    local = load_images(str(tmp_path / "tars"))
    assert images.digest == local.digest
    assert images.ids_N.tolist() == local.ids_N.tolist()
    assert images.source.location == location
    there, here = pixels(images), pixels(local)
    assert there.keys() == here.keys()
    assert all(np.array_equal(there[id_], here[id_]) for id_ in here)  # type: ignore[arg-type]


@pytest.mark.usefixtures("forgetful")
def test_images_are_read_by_range_and_a_known_tar_only_by_its_fingerprint(
    proxy: Proxy, location: str, tmp_path: Path
) -> None:
    cache = DigestCache(tmp_path / "cache")
    first = load_images(f"{location}/?endpoint={proxy.endpoint}", cache=cache)
    assert first.digest
    seen: list[str] = []
    proxy.plan = lambda method, path: seen.append(method) if path.endswith(".tar") else None
    again = load_images(f"{location}/?endpoint={proxy.endpoint}", cache=cache)
    assert again.digest == first.digest
    # For each tar: whether it is there (its size and fingerprint come with that), its index in growing blocks, and its
    # end; no image.
    assert seen.count("HEAD") == 3
    assert 6 <= seen.count("GET") <= 18
    content = first.source.read(5)
    assert isinstance(content, bytes)
    with tarfile.open(tmp_path / "tars" / f"{first.ids_N[5].partition('/')[0]}.tar") as tar:
        member = tar.extractfile(f"{first.ids_N[5].partition('/')[2]}.jpg")
        assert member is not None
        assert content == member.read()


@pytest.mark.usefixtures("forgetful")
def test_faults_on_the_way_change_nothing_and_a_server_that_is_gone_stops_the_run(
    proxy: Proxy, location: str, tmp_path: Path
) -> None:
    local = load_images(str(tmp_path / "tars"))
    for fault in ("503", "half answer"):
        proxy.plan = every(3, fault, "GET")
        assert load_images(f"{location}/?endpoint={proxy.endpoint}").digest == local.digest
    proxy.plan = lambda method, path: "500" if "pets-001" in path else None
    with pytest.raises(StoreError, match=rf"{location}/pets-001.tar could not be read or written in 5 attempts"):
        load_images(f"{location}/?endpoint={proxy.endpoint}")
    proxy.plan = lambda method, path: None
    images = load_images(f"{location}/?endpoint={proxy.endpoint}")
    proxy.plan = lambda method, path: "503" if method == "GET" else None
    with pytest.raises(StoreError, match="503 Service Unavailable"):  # and not an image that failed
        pixels(images)


def members_of(count: int, size: int) -> dict[str, bytes]:
    """Return images-to-be of about ``size`` bytes, each with a label."""
    rng = np.random.default_rng(size)
    images = {f"{number}.jpg": rng.bytes(size + 512 * (number % 7)) for number in range(count)}
    return images | {f"{number}.cls": b"%d" % (number % 3) for number in range(count)}


@pytest.mark.parametrize("size", [3_000, 60_000, 120_000, 135_000, 200_000, 400_000])
def test_tars_with_members_of_any_size_are_fetched_once_in_all(proxy: Proxy, size: int) -> None:
    folder = f"images {next(NUMBERS)}"
    objects = open_objects(f"s3://{BUCKET}/{folder}?endpoint={proxy.endpoint}")
    members = [members_of(8_000_000 // size // 2, size + number) for number in range(2)]
    for number in range(2):
        objects.put(f"{number}.tar", tar_with(members[number]))
    whole = sum(objects.size(f"{number}.tar") for number in range(2))
    before = len(proxy.answers)
    images = load_images(f"s3://{BUCKET}/{folder}/?endpoint={proxy.endpoint}")
    for row, id_ in enumerate(images.ids_N.tolist()):
        tar, _, key = id_.partition("/")
        assert images.source.read(row) == members[int(tar)][f"{key}.jpg"]
    assert len(images) == 2 * len(members[0]) // 2
    answers = [answer for answer in proxy.answers[before:] if quote(folder) in answer[0]]
    assert sum(size for _, _, size in answers) <= 1.02 * whole, answers  # those asked for twice are among them
    assert sum(size for _, _, size in answers) >= whole / 2  # by their names answers are found


def test_workers_fetch_what_they_read(proxy: Proxy, location: str, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in (tmp_path / "tars").iterdir())
    images = load_images(f"{location}/?endpoint={proxy.endpoint}")
    before = proxy.bytes_answered
    assert len(pixels(pickle.loads(pickle.dumps(images)))) == 24  # in a worker, which has kept nothing
    assert 0 < proxy.bytes_answered - before <= size


def test_what_the_spool_has_no_room_for_is_fetched_again_and_that_is_said(
    proxy: Proxy, location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(path.stat().st_size for path in (tmp_path / "tars").iterdir())
    whole = load_images(f"{location}/?endpoint={proxy.endpoint}")
    assert summary_of(whole).endswith("read as 3 WebDataset tars")
    monkeypatch.setattr(spool, "SHARE_OF_FREE_SPACE", 0.0)
    before = proxy.bytes_answered
    images = load_images(f"{location}/?endpoint={proxy.endpoint}")
    assert f"3 WebDataset tars, of which up to {size / 1e6:.1f} MB are fetched twice" in summary_of(images)
    assert images.digest == whole.digest
    assert proxy.bytes_answered - before > 1.2 * size  # labels and padding are not


@pytest.mark.usefixtures("forgetful")
def test_between_the_headers_of_large_members_nothing_is_fetched(proxy: Proxy) -> None:
    folder = f"images {next(NUMBERS)}"
    objects = open_objects(f"s3://{BUCKET}/{folder}?endpoint={proxy.endpoint}")
    members: dict[str, bytes] = {}
    for number in range(12):
        members[f"{number}.jpg"] = np.random.default_rng(number).bytes(400_000 + 512 * number)
        members[f"{number}.json"] = json.dumps({"label": number % 3, "text": "x" * 1000}).encode()
    content = tar_with(members)
    objects.put("large.tar", content)
    before = proxy.bytes_answered
    images = load_images(f"s3://{BUCKET}/{folder}/large.tar?endpoint={proxy.endpoint}")
    listed = proxy.bytes_answered - before
    assert listed < 0.05 * len(content)
    assert {str(id_): images.source.read(row) for row, id_ in enumerate(images.ids_N)} == {
        f"large/{number}": members[f"{number}.jpg"] for number in range(12)
    }
    assert proxy.bytes_answered - before <= 1.02 * len(content)
    assert images.digest  # reads no more
    assert proxy.bytes_answered - before <= 1.02 * len(content)


@pytest.mark.usefixtures("forgetful")
def test_a_tar_that_is_replaced_after_it_was_listed_gives_no_bytes_of_another(proxy: Proxy, location: str) -> None:
    images = load_images(f"{location}/?endpoint={proxy.endpoint}")
    objects = open_objects(f"{location}?endpoint={proxy.endpoint}")
    content = objects.get("pets-001.tar")
    assert content is not None
    objects.put("pets-001.tar", b"\0" * 512 + content)
    with pytest.raises(VanishedImageError, match=rf"{location}/pets-001\.tar was changed after it was listed"):
        pixels(images)


@pytest.mark.usefixtures("forgetful")
def test_a_tar_that_was_removed_or_is_not_there_is_said_to_be(proxy: Proxy, location: str) -> None:
    images = load_images(f"{location}/?endpoint={proxy.endpoint}")
    open_objects(f"{location}?endpoint={proxy.endpoint}").delete("pets-001.tar")
    with pytest.raises(VanishedImageError, match=r"pets-001\.tar was there when it was listed and cannot be read now"):
        pixels(images)
    for spec in ("pets-001.tar", "pets-{000..002}.tar", "dogs-*.tar", "nothing/"):
        with pytest.raises(InputError, match=r"no tar at s3://"):
            load_images(f"{location}/{spec}?endpoint={proxy.endpoint}")
    with pytest.raises(InputError, match=r"README\.txt"):
        load_images(f"{location}/README.txt?endpoint={proxy.endpoint}")
