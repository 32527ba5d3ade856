"""Label trials of one backbone, method and image set by the settings in which they differ."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penultimate.store.format.digest import digest_of
from penultimate.store.trials.trial import OF_FEATURES, Trial

OTHER_AXES = ("shots", "steps")
"""Settings that are an axis of their own (data size, step budget), shown beside the variant and not in it."""

_FOLLOWS_FROM_STEPS = ("eval_every",)
"""Settings left out of labels because their default is a fraction of the steps; they only place a curve's points."""

_FOLLOWS_FROM_SHOTS = ("retrain",)
"""Settings left out of labels of trials on k images a class, which are never retrained on the larger val split."""

_FITS_THE_SHOTS = ("l2",)
"""Settings that may be apt for a number of shots: a path of other strengths for few images is no other variant."""

OF_THE_NETWORK = ("weights", "preprocess")
"""Fields of a FeatureKey that always differ between backbones; named only for a backbone with several values."""

_UNSAID = {"class_weight": "none", "transform": "none"}
"""Settings that a probe's trial has only where they are not these."""

_SAME_IN_A_CELL = ("dataset", "images", "backbone")
"""Fields of a FeatureKey that choose a trial's cell of the table; they are never part of a label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Labels of one trial; empty where nothing distinguishes it from the others."""

    setting: str
    """Settings of the method, such as ``"loss=squared_hinge"``; backbones can be compared within one setting."""

    network: str
    """Label of one of several networks of the same backbone name, such as ``"weights=1f3a9c02"``."""

    @property
    def label(self) -> str:
        """Return setting and network in one label."""
        return ", ".join(filter(None, (self.setting, self.network)))


def variants(trials: Sequence[Trial]) -> list[Variant]:
    """Return one variant for each trial, in their order.

    A setting is named where two trials of the same backbone, method and images differ in it (one that lacks it does
    not differ); settings that differ only between datasets are not, nor ``_FITS_THE_SHOTS`` between numbers of shots.
    Once named for a method, it is named for all of its trials; fields of ``OF_THE_NETWORK`` are named only for the
    backbones that have several values. ``OTHER_AXES`` are never named.
    """
    fields = [_fields(trial) for trial in trials]
    cells: defaultdict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    of_shots: defaultdict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for trial, each in zip(trials, fields, strict=True):
        cell_key = (trial.method, trial.backbone, trial.dataset, trial.features["images"])
        cells[cell_key].append(_without(each, _FITS_THE_SHOTS))
        of_shots[*cell_key, trial.settings.get("shots")].append(_only(each, _FITS_THE_SHOTS))
    of_method: defaultdict[str, set[str]] = defaultdict(set)
    of_backbone: defaultdict[str, set[str]] = defaultdict(set)
    for (method, backbone, *_), cell in [*cells.items(), *of_shots.items()]:
        for name in _differing(cell):
            (of_backbone[backbone] if name in OF_THE_NETWORK else of_method[method]).add(name)
    return [
        Variant(setting=_label(each, of_method[trial.method]), network=_label(each, of_backbone[trial.backbone]))
        for trial, each in zip(trials, fields, strict=True)
    ]


def _without(fields: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def _only(fields: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in names}


def _label(fields: Mapping[str, Any], names: set[str]) -> str:
    return ", ".join(f"{name}={_short(fields[name])}" for name in sorted(names) if name in fields)


def _fields(trial: Trial) -> dict[str, Any]:
    """Flatten settings and feature fields of a trial into one mapping with dotted names, without ``OTHER_AXES``."""
    features = {name: value for name, value in trial.features.items() if name not in _SAME_IN_A_CELL}
    features["choose_by"] = trial.metric  # unless the settings name another score
    if trial.method in OF_FEATURES:  # the penultimate layer goes without saying in a trial, not beside other readouts
        features["readout"] = trial.readout
    if trial.method == "probe":
        features |= _UNSAID
    left_out: tuple[str, ...] = (*OTHER_AXES, *_FOLLOWS_FROM_STEPS)
    if trial.settings.get("shots") is not None:
        left_out += _FOLLOWS_FROM_SHOTS
    return features | {name: value for name, value in _flat(trial.settings).items() if name not in left_out}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _differing(cell: Sequence[Mapping[str, Any]]) -> set[str]:
    names = {name for fields in cell for name in fields}
    return {name for name in names if len({json.dumps(a[name], sort_keys=True) for a in cell if name in a}) > 1}


def _short(value: Any) -> str:
    """Shorten a value for a label: text and numbers as they are (digests to 8 digits), lists as their digest."""
    if isinstance(value, list | tuple):
        return digest_of(list(value))[:8]
    text = str(value)
    return text[:8] if len(text) >= 16 and all(c in "0123456789abcdef" for c in text) else text
