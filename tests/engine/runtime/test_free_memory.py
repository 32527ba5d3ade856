"""Free memory is the least of what Linux says is available and of what control groups have left."""

from pathlib import Path

import pytest

from penultimate.engine.runtime.free_memory import free_memory_bytes, safe_memory_bytes

GB = 1 << 30


def machine(root: Path, *, available: int, groups: str = "") -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal:       99999999 kB\nMemFree:  17 kB\nMemAvailable:   {available // 1024} kB\nHugePages_Total: 0\n"
    )
    (root / "proc/self/cgroup").write_text(groups)
    return root


def group(folder: Path, **values: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_without_groups_it_is_what_linux_says_is_available(tmp_path: Path) -> None:
    assert free_memory_bytes(machine(tmp_path, available=5 * GB)) == 5 * GB


def test_the_tightest_group_above_the_process_counts_and_its_cached_files_are_free(tmp_path: Path) -> None:
    root = machine(tmp_path, available=50 * GB, groups="0::/jobs/mine\n")
    stat = f"anon {GB}\ninactive_file {GB}\nactive_file 5"
    group(root / "sys/fs/cgroup/jobs/mine", memory__max="max", memory__current=str(3 * GB), memory__stat=stat)
    group(root / "sys/fs/cgroup/jobs", memory__max=str(8 * GB), memory__current=str(3 * GB), memory__stat=stat)
    assert free_memory_bytes(root) == 6 * GB  # 8 less the 2 that are no cached files


def test_a_container_sees_its_own_group_as_the_top_whatever_path_it_is_told(tmp_path: Path) -> None:
    root = machine(tmp_path, available=50 * GB, groups="0::/../../docker/0123\n")
    top = root / "sys/fs/cgroup"
    group(top, memory__max=str(2 * GB), memory__current=str(GB), memory__stat="inactive_file 0")
    assert free_memory_bytes(root) == GB


def test_groups_of_version_1_are_read_and_their_largest_number_is_no_limit(tmp_path: Path) -> None:
    root = machine(tmp_path, available=9 * GB, groups="5:cpu:/\n4:memory:/job\n0::/\n")
    names = {"memory__usage_in_bytes": str(2 * GB), "memory__stat": f"total_inactive_file {GB}\ninactive_file 0"}
    group(root / "sys/fs/cgroup/memory/job", memory__limit_in_bytes=str(4 * GB), **names)
    group(root / "sys/fs/cgroup/memory", memory__limit_in_bytes=str((1 << 63) - 4096), **names)
    assert free_memory_bytes(root) == 3 * GB


def test_a_group_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    root = machine(tmp_path, available=9 * GB, groups="0::/\n")
    group(root / "sys/fs/cgroup", memory__max=str(GB), memory__current=str(2 * GB), memory__stat="inactive_file 0")
    assert free_memory_bytes(root) == 0


def test_where_there_is_no_linux_it_is_half_of_the_machines_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1 << 20}.__getitem__)
    assert free_memory_bytes(tmp_path) == 2 * GB


def test_half_of_it_is_taken_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penultimate.engine.runtime.free_memory.free_memory_bytes", lambda: 6 * GB)
    assert safe_memory_bytes() == 3 * GB
