"""Readout names which vector of a forward pass is kept: the penultimate one, tokens, or the mean over a layer's map.

A vector is made of parts, each the class token after one block, or the mean over space after one block or stage.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from penultimate.store.errors import InputError

Unit = Literal["block", "stage"]
"""Kind of layer: a ``block`` of a network whose blocks all give as many tokens, or a ``stage`` of any other network."""

BLOCKS = "blocks"
"""Name that stands for four readouts, of evenly spaced blocks, the last among them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a readout."""

    pooling: Literal["cls", "mean"]
    """The class token, or the mean over all places of the map: registers and other prefix tokens are not places."""

    layer: int
    """Index of the block or stage, from 0."""


@dataclass(frozen=True, slots=True)
class Readout:
    """One vector of a forward pass."""

    name: str
    dim: int
    """Number D of its features."""

    parts: tuple[Part, ...] = ()
    """Parts whose vectors are joined in this order; empty for a vector that the network itself gives."""


def chosen(available: Mapping[str, Readout], wanted: Iterable[str], *, network: str) -> tuple[Readout, ...]:
    """Return the readouts that names and globs stand for, in order and each once.

    ``blocks`` is four evenly spaced blocks, and negative indices (``block:-1``) count from the end. Raises InputError
    with the list of what ``network`` has for a name, or a glob, that none of ``available`` has.
    """
    names = [name for each in wanted for name in _matched(available, each, network)]
    return tuple(available[name] for name in dict.fromkeys(names))


def listed(available: Iterable[str]) -> list[str]:
    """Return the names as people read them: the layers as one range, and ``blocks`` where there are blocks.

    >>> listed(["penultimate", "cls", "block:0", "block:1", "block:2"])
    ['penultimate', 'cls', 'block:0 to block:2', 'blocks']
    """
    names = list(available)
    layers = [name for name in names if _unit_of(name)]
    found = [name for name in names if name not in layers]
    found += [f"{layers[0]} to {layers[-1]}"] if layers else []
    return found + ([BLOCKS] if layers and _unit_of(layers[0]) == "block" else [])


def _matched(available: Mapping[str, Readout], wanted: str, network: str) -> list[str]:
    """Return the names of ``available`` that a name or glob stands for."""
    name = _from_the_start(wanted, available)
    if name == BLOCKS:
        found = _evenly_spaced([known for known in available if _unit_of(known) == "block"])
    else:
        found = [name] if name in available else [known for known in available if fnmatchcase(known, name)]
    if not found:
        raise InputError(f"{network} has no readout {wanted!r}; it has {', '.join(listed(available))}")
    return found


def _from_the_start(name: str, available: Iterable[str]) -> str:
    """Return ``block:11`` for ``block:-1`` of a network of 12 blocks; other names as they are."""
    unit, _, index = name.partition(":")
    count = sum(_unit_of(known) == unit for known in available)
    from_end = index.startswith("-") and index[1:].isdecimal() and 1 <= int(index[1:]) <= count
    return f"{unit}:{count + int(index)}" if from_end else name


def _evenly_spaced(names: list[str], count: int = 4) -> list[str]:
    """Return ``count`` of ``names``, the last among them: of 12 blocks the 3rd, 6th, 9th and 12th."""
    ends = (-(-len(names) * number // count) for number in range(1, count + 1))
    return list(dict.fromkeys(names[end - 1] for end in ends)) if names else []


def _unit_of(name: str) -> str | None:
    unit, colon, _ = name.partition(":")
    return unit if colon and unit in get_args(Unit) else None
