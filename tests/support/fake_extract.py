"""An extraction in a process of its own: ``fake_extract.py STORE FIRST_BLOCK STOP_BLOCK [JOB.pickle]``.

It says after each batch how many samples of it were needed. The features are those of ``store_cases.small_job``, or of
a pickled Job, so that any number of such processes must make the same store.
"""

import pickle
import sys
from pathlib import Path

import numpy as np

from penultimate.store.errors import StoreError
from penultimate.store.feature_store import FeatureStore

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.store_cases import Job, small_job


def main() -> int:
    store, first, stop = FeatureStore(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    job: Job = pickle.loads(Path(sys.argv[4]).read_bytes()) if len(sys.argv) > 4 else small_job()
    try:
        with job.writer(store, blocks=range(first, stop)) as writer:
            print("missing", *writer.missing_blocks, flush=True)
            missing = writer.missing_samples
            for samples in np.array_split(missing, max(1, len(missing) // 4)):
                print("done", job.append(writer, samples), flush=True)
                if sys.stdin.readline() == "":
                    return 3
    except StoreError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
