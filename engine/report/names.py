"""Name methods and settings for a reader."""

import re
from collections.abc import Mapping, Sequence

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


def chosen_text(chosen: Mapping[str, float]) -> str:
    """Return the settings that val chose in one short text: ``l2 0.01``, ``k 20, vote_temperature 0.07``."""
    return ", ".join(f"{name} {value:.3g}" for name, value in chosen.items())


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
