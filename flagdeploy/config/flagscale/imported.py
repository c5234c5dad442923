"""What an import gives. Apart from the reading, which only those pay for who import."""

from dataclasses import dataclass
from pathlib import Path

from flagdeploy.config.launch import Host
from flagdeploy.config.layers import Layer
from flagdeploy.errors import Problem


@dataclass(frozen=True)
class Imported:
    """What a FlagScale pair says in our keys; `notes` name all that is not carried out as it is."""

    name: str
    file: Path
    layers: tuple[Layer, ...]
    hosts: tuple[Host, ...]
    """Empty: the deployment runs on this machine."""
    notes: tuple[Problem, ...]
