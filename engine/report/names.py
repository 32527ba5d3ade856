"""Name methods, settings, readouts and what was compared for a reader."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from penultimate.engine.analysis.curves.data_size import SizeCurve
from penultimate.engine.analysis.score_row import ScoreRow
from penultimate.engine.analysis.scoreboard import Contender
from penultimate.store.key import PENULTIMATE, label_of

METHOD_NAMES = {
    "probe": "Logistic regression",
    "knn": "Nearest neighbours",
    "finetune": "Fine-tuned",
    "scratch": "Random initialization",
}


def setting_name(name: str) -> str:
    """Return the paper's name of a method, keeping varied settings in brackets; other methods keep their name."""
    method, bracket, varied = name.partition(" (")
    return METHOD_NAMES.get(method, method) + bracket + varied


def name_of(each: Contender | ScoreRow | SizeCurve) -> str:
    """Return the backbone and its readout, with the rest of its variant where there are several.

    The penultimate layer goes without saying, as everywhere; a variant names the readout where trials differ in it.
    """
    if isinstance(each, SizeCurve):
        return f"{each.backbone} ({each.variant})" if each.variant else each.backbone
    rest = ", ".join(part for part in each.variant.split(", ") if not part.startswith("readout="))
    name = label_of(each.backbone, each.readout)
    return f"{name} ({rest})" if rest else name


def readout_text(each: Contender | ScoreRow) -> str:
    """Return the readout; empty for the penultimate layer, which goes without saying."""
    return "" if each.readout == PENULTIMATE else each.readout


def chosen_text(chosen: Mapping[str, Any]) -> str:
    """Return the settings that val chose in one short text: ``l2 0.01, readout last4``, ``k 20``."""
    return ", ".join(f"{name} {value if isinstance(value, str) else f'{value:.3g}'}" for name, value in chosen.items())


def slug(name: str) -> str:
    """Return a name as part of a file's name or an anchor."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_")


def listed_names(names: Sequence[str], *, at_most: int = 3) -> str:
    """Return names as people list them: ``a``, ``a and b``, ``a, b and c``, ``a, b and 4 others``."""
    if len(names) > at_most + 1:
        return f"{', '.join(names[: at_most - 1])} and {len(names) - at_most + 1} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def standing_title(best: str, ties: Sequence[str], *, num_others: int, where: str) -> str:
    """Return who is best, as the title of a figure: ``a and b tie on digits``, ``a is best on digits``."""
    if ties:
        return f"{listed_names([best, *ties])} tie {where}"
    return f"{best} is best {where}" if num_others else f"{best} {where}"
