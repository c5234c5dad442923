"""Inference engines: one module and one argument table each, looked up by name."""

from flagdeploy.engines.base import Engine, load, names

__all__ = ["Engine", "load", "names"]
