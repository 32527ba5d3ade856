"""What the entries of a label matrix (N samples, K classes) mean, for samples with several labels."""

ABSENT = 0
"""The sample does not show the class."""

PRESENT = 1
"""The sample shows the class."""

UNCOUNTED = 2
"""Neither: the sample shows the class only in objects marked difficult (VOC 2007). As the VOC devkit has it, such a
sample does not count when the class is scored; in fitting it is one that does not show the class."""
