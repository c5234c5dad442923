"""Public test sets, one file each, found by its name: see ../dataset.py.

A set of your own is one more file here with a `DATASET`, or a folder with a benchmark.yaml.
"""
