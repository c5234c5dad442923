"""Operator libraries: which of their operators a model can live with."""
