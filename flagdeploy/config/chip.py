"""What a chip offers to the checks: its memory and the precisions of stored weights it can load."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One accelerator model of a vendor, as `env/vendors/V.yaml` describes it."""

    name: str
    memory_gib: float | None
    """Memory that programs can use, in GiB; None when the vendor publishes none."""
    precisions: tuple[str, ...]
    """Precisions (`model.precision`) that the chip computes with, or loads and converts."""
    converts: bool = False
    """The engine stores weights in a format of its own, so their size cannot be foretold."""
