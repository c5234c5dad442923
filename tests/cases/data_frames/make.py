"""Writes one of the pickles beside it: `python make.py FILE PROTOCOL`, with the pandas that its
name says. Each holds rows taken apart and put together, so that no column is as it was made."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-not-found]

frame = pd.DataFrame(
    {
        "text_input": ["What is 1+1?", "\u4e8c\u52a0\u4e8c\n", "x", "y"],
        "ground_truth": ["2", "4", None, "\u00e9"],
        "ref_accuracy": [100.0, 0.0, 1.5, 2.0],
        "other": [1.0, 2.0, 3.0, 4.0],
        "tok": [[1, 2, 300, 128803], [0], [], [-1]],
        "n": [4, 1, 0, 7],
        "ok": [True, False, True, True],
        "obj": [1, "a", None, 2.5],
        "arr": [np.array([1, 2]), np.array([3]), np.array([], dtype=int), np.array([1.5])],
        "sc": [np.float32(1.5), np.int64(3), "x", True],
    },
    index=[3, 1, 7, 9],
)
frame = pd.concat([frame[frame.n > 0], frame[frame.n == 0]])
Path(sys.argv[1]).write_bytes(pickle.dumps(frame, protocol=int(sys.argv[2])))
