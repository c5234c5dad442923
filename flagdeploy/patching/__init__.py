"""Patches and git: read strictly, applied to trees, put in place as a whole."""
