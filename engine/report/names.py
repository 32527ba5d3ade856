"""Name methods and settings for a reader."""

METHOD_NAMES = {"probe": "Logistic regression", "finetune": "Fine-tuned", "scratch": "Random initialization"}


def setting_name(name: str) -> str:
    """Return the paper's name of a method, keeping varied settings in brackets; other methods keep their name."""
    method, bracket, varied = name.partition(" (")
    return METHOD_NAMES.get(method, method) + bracket + varied
