"""LocalObjects keep the contract; a folder also has a path, and writes that a kill left half done."""

from pathlib import Path

import pytest
from support.objects_contract import ObjectsContract

from penultimate.store.errors import InputError
from penultimate.store.objects.local import LocalObjects
from penultimate.store.objects.open import open_objects


class TestLocalObjects(ObjectsContract):
    @pytest.fixture
    def objects(self, tmp_path: Path) -> LocalObjects:
        return LocalObjects(tmp_path / "location")

    def test_a_path_opens_as_a_folder(self, tmp_path: Path) -> None:
        opened = open_objects(tmp_path)
        assert isinstance(opened, LocalObjects)
        assert opened.folder == tmp_path
        assert open_objects(str(tmp_path)).address == str(tmp_path)

    def test_a_folder_is_made_only_where_its_parent_is(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no folder"):
            LocalObjects(tmp_path / "no" / "parent").prepare()

    @pytest.mark.skipif(
        not Path("/proc/self").exists(), reason="needs a file system that takes no folders, as /proc is"
    )
    def test_a_folder_that_its_parent_takes_none_of_is_refused(self) -> None:
        with pytest.raises(InputError, match="cannot make /proc/penultimate: /proc takes no folders"):
            LocalObjects(Path("/proc/penultimate")).prepare()

    def test_a_name_that_is_too_long_is_refused(self, tmp_path: Path) -> None:
        objects = LocalObjects(tmp_path / ("n" * 300))
        for use in (objects.is_vacant, objects.prepare, lambda: objects.exists("zarr.json")):
            with pytest.raises(InputError, match="name too long; choose another location"):
                use()

    def test_files_that_a_kill_left_half_written_are_removed(self, objects: LocalObjects) -> None:
        objects.prepare()
        objects.put("k/deep/a", b"x")
        (objects.folder / "k" / "deep" / "b.1234.partial").write_bytes(b"ha")
        objects.delete_leftovers("k")
        assert objects.names("k/deep") == ["a"]

    def test_a_file_that_is_being_written_does_not_occupy_the_location(self, objects: LocalObjects) -> None:
        objects.prepare()
        (objects.folder / f"zarr.json.{'0a' * 16}.partial").write_bytes(b"ha")
        assert objects.is_vacant()
        (objects.folder / "film.partial").write_bytes(b"somebody's download")
        assert not objects.is_vacant()
