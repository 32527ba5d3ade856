"""What is written comes back by id, in order; what is not complete does not show."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from conftest import FAILED, NUM_ROWS, Job

from penultimate.store.errors import (
    CorruptFeaturesError,
    IncompleteFeaturesError,
    InputError,
    NotAStoreError,
    StoreBusyError,
    UnknownNameError,
)
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore

DECODED = np.array([row for row in range(NUM_ROWS) if row not in FAILED])
