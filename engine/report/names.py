"""Name methods and settings for a reader."""

from collections.abc import Mapping

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
