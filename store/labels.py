"""Values of the label matrix (N samples, K classes) of a multi-label dataset."""

ABSENT = 0
"""The sample does not show the class."""

PRESENT = 1
"""The sample shows the class."""

UNCOUNTED = 2
"""The sample shows the class only in objects marked difficult (VOC 2007). As in the VOC devkit, it is left out when the
class is scored; in fitting it counts as ABSENT."""
