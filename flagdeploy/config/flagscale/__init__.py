"""FlagScale's serve configurations: read as they are, and written.

Formats: github.com/flagos-ai/FlagScale, ``examples/*/conf`` and the readers of v0.6 to v1.0
(run.py, flagscale/runner, flagscale/serve). Hydra is not needed, and nothing read is executed.
"""
