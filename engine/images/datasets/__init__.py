"""Load the paper's twelve datasets by name, and the digits that scikit-learn ships."""
