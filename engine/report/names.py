"""Names: what methods and settings are called in front of a reader."""

METHOD_NAMES = {"probe": "Logistic regression", "finetune": "Fine-tuned", "scratch": "Random initialization"}


def setting_name(name: str) -> str:
    """As the paper's figures call a method, what was varied in brackets kept; the name itself for another method."""
    method, bracket, varied = name.partition(" (")
    return METHOD_NAMES.get(method, method) + bracket + varied
