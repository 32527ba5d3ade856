"""Imports go cli -> engine -> store and never back, and heavy packages are imported only where they are needed."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import penultimate

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "penultimate"

# Importing module prefix -> prefixes it must not import, at any depth of its source.
FORBIDDEN = {
    "penultimate.store": ("penultimate.engine", "penultimate.cli", "torch", "timm", "nvidia"),
    "penultimate.engine": ("penultimate.cli",),
    "penultimate.engine.backbones": ("penultimate.engine.study", "penultimate.engine.extract.extract"),
    "penultimate.engine.images": ("penultimate.engine.backbones", "penultimate.engine.extract.extract", "timm"),
    "penultimate.engine.probe": (
        "penultimate.engine.images",
        "penultimate.engine.backbones",
        "penultimate.engine.extract.extract",
        "penultimate.engine.train",
        "penultimate.engine.study",
    ),
    "penultimate.engine.scoring": (
        "penultimate.engine.images",
        "penultimate.engine.backbones",
        "penultimate.engine.probe",
        "penultimate.engine.train",
        "penultimate.engine.analysis",
        "torch",
    ),
    "penultimate.engine.train": ("penultimate.engine.probe", "penultimate.engine.study"),
    "penultimate.engine.bench": (
        "penultimate.engine.study",
        "penultimate.engine.analysis",
        "penultimate.engine.report",
    ),
    "penultimate.engine.analysis": (
        "penultimate.engine.images",
        "penultimate.engine.backbones",
        "penultimate.engine.extract.extract",
        "penultimate.engine.probe",
        "penultimate.engine.train",
        "penultimate.engine.study",
        "torch",
    ),
    "penultimate.engine.neighbors": (
        "penultimate.engine.images",
        "penultimate.engine.backbones",
        "penultimate.engine.extract",
        "penultimate.engine.probe",
        "penultimate.engine.train",
        "penultimate.engine.study",
    ),
    "penultimate.engine.audit": (
        "penultimate.engine.images",
        "penultimate.engine.backbones",
        "penultimate.engine.extract",
        "penultimate.engine.train",
        "penultimate.engine.study",
        "penultimate.engine.report",
    ),
    "penultimate.engine.report": (
        "penultimate.engine.images",
        "penultimate.engine.backbones",
        "penultimate.engine.study",
        "torch",
    ),
}

# Heavy package -> the only places that may name it.
HOMES = {
    "nvidia": ("penultimate.engine.images.decode.dali", "penultimate.engine.train.augment.dali"),
    "timm": ("penultimate.engine.backbones", "penultimate.engine.train", "penultimate.engine.bench.train_sides"),
    "cuml": ("penultimate.engine.probe", "penultimate.engine.bench.probe_peers"),
    "cupy": ("penultimate.engine.probe", "penultimate.store"),
    "cleanlab": ("penultimate.engine.audit.label_issues",),
    "obstore": ("penultimate.store",),
    "boto3": (),
    "ray": ("penultimate.engine.runtime.ray_cluster",),
    "matplotlib": ("penultimate.engine.report",),
    # Where settings are declared: a study's YAML and the options of extraction, probes and training.
    "pydantic": (
        "penultimate.cli.options",
        "penultimate.cli.settings",
        "penultimate.engine.audit.settings",
        "penultimate.engine.extract.settings",
        "penultimate.engine.images.options",
        "penultimate.engine.probe.settings",
        "penultimate.engine.runtime.option_types",
        "penultimate.engine.runtime.strict",
        "penultimate.engine.study",
        "penultimate.engine.train",
    ),
}


def _files() -> dict[str, Path]:
    """Map each module of the package to its file."""
    found = {}
    for folder in ("store", "engine", "cli"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(["penultimate", *parts]).removesuffix(".__init__")] = path
    return found


FILES = _files()


def _walk() -> Iterator[tuple[str, str]]:
    """Return (module, imported name) for every import statement of the package, including those in functions."""
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import; write penultimate..."
                yield module, node.module or ""
                yield from ((module, f"{node.module}.{alias.name}") for alias in node.names)


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


IMPORTS = list(_walk())


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an unpacked sdist holds folders instead of links")
@pytest.mark.parametrize("name", ["engine", "store", "cli"])
def test_the_three_folders_are_relative_links_under_the_import_name(name: str) -> None:
    assert os.readlink(SOURCE / name) == f"../../{name}"


@pytest.mark.parametrize("importer", FORBIDDEN)
def test_imports_go_one_way(importer: str) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, name in IMPORTS
        if _under(module, importer) and any(_under(name, prefix) for prefix in FORBIDDEN[importer])
    ]
    assert not wrong


@pytest.mark.parametrize("package", HOMES)
def test_a_heavy_package_is_named_only_where_it_belongs(package: str) -> None:
    strays = [
        f"{module} imports {name}"
        for module, name in IMPORTS
        if _under(name, package) and not any(module.startswith(home) for home in HOMES[package])
    ]
    assert not strays


def _circles(imports: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Return the sets of files that import each other, over any number of steps, each sorted."""
    graph: dict[str, set[str]] = {}
    for module, name in imports:
        graph.setdefault(module, set()).add(name)

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    reached = {module: reachable(module) for module in graph}
    circles = {tuple(sorted(n for n in reached[m] if m in reached.get(n, ()))) for m in graph}
    return sorted(circles - {()})


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions and under TYPE_CHECKING count: a reader has to follow them as well."""
    assert _circles((module, name) for module, name in IMPORTS if name in FILES) == []


def test_a_circle_is_found_over_several_steps() -> None:
    imports = [("a", "b"), ("b", "c"), ("c", "a"), ("d", "a"), ("e", "f"), ("f", "e"), ("c", "g")]
    assert _circles(imports) == [("a", "b", "c"), ("e", "f")]


@pytest.mark.parametrize(
    "question",
    [
        "get_capabilities",
        "get_device_capability",
        "mkldnn_bf16",
        "cpu_count(",
        "sched_getaffinity",
        "which(",
        "cpuinfo",
    ],
)
def test_what_the_machine_can_do_is_asked_in_one_module(question: str) -> None:
    asking = {
        str(path.relative_to(ROOT))
        for folder in ("store", "engine", "cli", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if question in path.read_text()
    }
    assert asking == {"engine/runtime/capabilities.py"}


def test_the_walk_sees_the_imports_it_judges() -> None:
    assert ("penultimate.cli.main", "penultimate.store.errors") in IMPORTS


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import penultimate", ("numpy", "torch", "zarr", "timm", "nvidia.dali", "matplotlib")),
        ("import penultimate.store.feature_store", ("torch", "timm", "nvidia.dali", "sklearn", "obstore")),
        ("import penultimate.store.trials.trial_log", ("torch", "timm", "nvidia.dali", "sklearn", "obstore")),
        ("import penultimate.cli.main", ("nvidia.dali", "matplotlib", "cuml", "ray")),
    ],
)
def test_importing_stays_light(statement: str, absent: tuple[str, ...]) -> None:
    script = f"import sys; {statement}; print([m for m in {absent!r} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


def test_the_public_names_are_those_that_import() -> None:
    for name in penultimate.__all__:
        assert getattr(penultimate, name).__name__.removeprefix("penultimate.") == name
    assert set(penultimate.__all__) <= set(dir(penultimate))
    with pytest.raises(AttributeError, match="FeatureStore"):
        penultimate.__getattr__("FeatureStor")
