"""A feature store and probing engine for vision backbones.

What is public is listed in ``__all__`` and imported on first use, so that ``import penultimate`` and
``penultimate.store`` need neither torch nor timm nor DALI. It does one thing besides: OpenMP's threads, torch's among
them, are told to sleep where they wait long, in this process and those it begins (``docs/how-to/clusters.md``).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from penultimate.engine.runtime.capabilities import lower_libraries as _lower_libraries
from penultimate.engine.runtime.waiting_threads import let_waiting_threads_sleep as _let_waiting_threads_sleep

if TYPE_CHECKING:
    from penultimate.engine.analysis.accuracy_table import read_accuracy_table as read_accuracy_table
    from penultimate.engine.analysis.analysis import analyze as analyze
    from penultimate.engine.analysis.scoreboard import scoreboard as scoreboard
    from penultimate.engine.audit.audit import Audit as Audit
    from penultimate.engine.audit.audit import audit as audit
    from penultimate.engine.audit.settings import AuditSettings as AuditSettings
    from penultimate.engine.backbones.timm_backbone import load_backbone as load_backbone
    from penultimate.engine.extract.extract import extract as extract
    from penultimate.engine.extract.settings import ExtractionSettings as ExtractionSettings
    from penultimate.engine.images.image_set import ImageSet as ImageSet
    from penultimate.engine.images.load import load_images as load_images
    from penultimate.engine.images.preprocess import Preprocess as Preprocess
    from penultimate.engine.predict import Predictions as Predictions
    from penultimate.engine.predict import predict as predict
    from penultimate.engine.probe.api import probe as probe
    from penultimate.engine.probe.estimator import LinearProbePath as LinearProbePath
    from penultimate.engine.probe.estimator import LinearProbePathCV as LinearProbePathCV
    from penultimate.engine.probe.fitting.fit import fit_path as fit_path
    from penultimate.engine.probe.fitting.fit_settings import FitSettings as FitSettings
    from penultimate.engine.probe.head import Head as Head
    from penultimate.engine.probe.path import RegularizationPath as RegularizationPath
    from penultimate.engine.probe.result import Probe as Probe
    from penultimate.engine.probe.settings import ProbeJob as ProbeJob
    from penultimate.engine.runtime.partition import Partition as Partition
    from penultimate.engine.study.document import read_study as read_study
    from penultimate.engine.study.run import run_study as run_study
    from penultimate.engine.study.study import Study as Study
    from penultimate.engine.torch_features import torch_batches as torch_batches
    from penultimate.engine.train.api import train as train
    from penultimate.engine.train.recipe import Recipe as Recipe
    from penultimate.engine.train.search.search_result import SearchResult as SearchResult
    from penultimate.engine.train.sweep import TrainJob as TrainJob
    from penultimate.store.feature_set import FeatureSet as FeatureSet
    from penultimate.store.feature_store import FeatureStore as FeatureStore
    from penultimate.store.interop.cupy_batches import cupy_batches as cupy_batches
    from penultimate.store.trials.trial import Trial as Trial
    from penultimate.store.trials.trial_log import TrialLog as TrialLog

_let_waiting_threads_sleep()  # every way of starting the product imports this package before torch

_HOME = {
    "Audit": "penultimate.engine.audit.audit",
    "AuditSettings": "penultimate.engine.audit.settings",
    "ExtractionSettings": "penultimate.engine.extract.settings",
    "FeatureSet": "penultimate.store.feature_set",
    "FeatureStore": "penultimate.store.feature_store",
    "FitSettings": "penultimate.engine.probe.fitting.fit_settings",
    "Head": "penultimate.engine.probe.head",
    "ImageSet": "penultimate.engine.images.image_set",
    "LinearProbePath": "penultimate.engine.probe.estimator",
    "LinearProbePathCV": "penultimate.engine.probe.estimator",
    "Partition": "penultimate.engine.runtime.partition",
    "Predictions": "penultimate.engine.predict",
    "Preprocess": "penultimate.engine.images.preprocess",
    "Probe": "penultimate.engine.probe.result",
    "ProbeJob": "penultimate.engine.probe.settings",
    "Recipe": "penultimate.engine.train.recipe",
    "RegularizationPath": "penultimate.engine.probe.path",
    "SearchResult": "penultimate.engine.train.search.search_result",
    "Study": "penultimate.engine.study.study",
    "TrainJob": "penultimate.engine.train.sweep",
    "Trial": "penultimate.store.trials.trial",
    "TrialLog": "penultimate.store.trials.trial_log",
    "analyze": "penultimate.engine.analysis.analysis",
    "audit": "penultimate.engine.audit.audit",
    "cupy_batches": "penultimate.store.interop.cupy_batches",
    "extract": "penultimate.engine.extract.extract",
    "fit_path": "penultimate.engine.probe.fitting.fit",
    "load_backbone": "penultimate.engine.backbones.timm_backbone",
    "load_images": "penultimate.engine.images.load",
    "predict": "penultimate.engine.predict",
    "probe": "penultimate.engine.probe.api",
    "read_accuracy_table": "penultimate.engine.analysis.accuracy_table",
    "read_study": "penultimate.engine.study.document",
    "run_study": "penultimate.engine.study.run",
    "scoreboard": "penultimate.engine.analysis.scoreboard",
    "torch_batches": "penultimate.engine.torch_features",
    "train": "penultimate.engine.train.api",
}
"""Public name -> the module that defines it."""

__all__ = [*_HOME, "errors"]


_lower_libraries()  # here, since whatever of penultimate is imported loads numpy and torch after this


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("penultimate.errors")
    if name not in _HOME:
        raise AttributeError(f"module 'penultimate' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
