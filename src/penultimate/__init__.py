"""A feature store and probing engine for vision backbones.

What is public is listed in ``__all__`` and imported on first use, so that ``import penultimate`` and
``penultimate.store`` need neither torch nor timm nor DALI. It does one thing besides: OpenMP's threads, torch's among
them, are told to sleep where they wait long, in this process and those it begins (``docs/scaling.md``).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from penultimate.engine.runtime.capabilities import lower_libraries as _lower_libraries
from penultimate.engine.runtime.waiting_threads import let_waiting_threads_sleep as _let_waiting_threads_sleep

if TYPE_CHECKING:
    from penultimate.engine.analysis.accuracy_table import read_accuracy_table as read_accuracy_table
    from penultimate.engine.analysis.analysis import analyze as analyze
    from penultimate.engine.analysis.scoreboard import scoreboard as scoreboard
    from penultimate.engine.images.image_set import ImageSet as ImageSet
    from penultimate.engine.images.load import load_images as load_images
    from penultimate.engine.images.preprocess import Preprocess as Preprocess
    from penultimate.engine.probe.estimator import LinearProbePath as LinearProbePath
    from penultimate.engine.probe.estimator import LinearProbePathCV as LinearProbePathCV
    from penultimate.engine.probe.fit import fit_path as fit_path
    from penultimate.engine.probe.fit_settings import FitSettings as FitSettings
    from penultimate.engine.probe.head import Head as Head
    from penultimate.engine.probe.path import RegularizationPath as RegularizationPath
    from penultimate.engine.probe.protocol import probe_features as probe_features
    from penultimate.engine.study.document import read_study as read_study
    from penultimate.engine.study.run import run_study as run_study
    from penultimate.engine.study.study import Study as Study
    from penultimate.engine.torch_features import torch_batches as torch_batches
    from penultimate.engine.train.api import train as train
    from penultimate.engine.train.recipe import Recipe as Recipe
    from penultimate.engine.train.search.search_result import SearchResult as SearchResult
    from penultimate.store.cupy_batches import cupy_batches as cupy_batches
    from penultimate.store.feature_store import FeatureStore as FeatureStore

_let_waiting_threads_sleep()  # every way of starting the product imports this package before torch

_HOME = {
    "FeatureStore": "penultimate.store.feature_store",
    "FitSettings": "penultimate.engine.probe.fit_settings",
    "Head": "penultimate.engine.probe.head",
    "ImageSet": "penultimate.engine.images.image_set",
    "LinearProbePath": "penultimate.engine.probe.estimator",
    "LinearProbePathCV": "penultimate.engine.probe.estimator",
    "Preprocess": "penultimate.engine.images.preprocess",
    "Recipe": "penultimate.engine.train.recipe",
    "RegularizationPath": "penultimate.engine.probe.path",
    "Search": "penultimate.engine.train.search.grid_search",
    "Study": "penultimate.engine.study.study",
    "analyze": "penultimate.engine.analysis.analysis",
    "cupy_batches": "penultimate.store.cupy_batches",
    "fit_path": "penultimate.engine.probe.fit",
    "load_images": "penultimate.engine.images.load",
    "probe_features": "penultimate.engine.probe.protocol",
    "read_accuracy_table": "penultimate.engine.analysis.accuracy_table",
    "read_study": "penultimate.engine.study.document",
    "run_study": "penultimate.engine.study.run",
    "scoreboard": "penultimate.engine.analysis.scoreboard",
    "torch_batches": "penultimate.engine.torch_features",
    "train": "penultimate.engine.train.api",
}
"""Public name -> the module that defines it."""

__all__ = list(_HOME)


_lower_libraries()  # here, since whatever of penultimate is imported loads numpy and torch after this


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'penultimate' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
