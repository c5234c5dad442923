"""The fault zoo: deployments of the model in the box, each with one fault or one harmless change.

`run.py` is the command; `rows.py` lists the rows; `faults/` makes them, in the serving process and
outside the product, which knows nothing of them.
"""
