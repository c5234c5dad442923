"""Parses `tt-smi -s`: one JSON object with every chip of the host."""

import json
from typing import Any

from flagdeploy.errors import FlagdeployError
from flagdeploy.vendors.base import Device

# GiB of DRAM of one chip by board, as Tenstorrent specifies them.
_DRAM_GIB = {
    "n150": 12,
    "n300": 12,
    "tt-galaxy-wh": 12,
    "p100a": 28,
    "p150": 32,
    "p300": 32,
    "tt-galaxy-bh": 32,
}


def devices(listing: str) -> list[Device]:
    """One device for each chip: an n300 board holds two, a Galaxy 32.

    Raises FlagdeployError when the output is not tt-smi's JSON, or when the boards of the host
    carry different firmware (the fabric does not come up then).
    """
    try:
        snapshot = json.loads(listing)
        chips, driver = snapshot["device_info"], snapshot["host_info"]["Driver"]
    except (ValueError, KeyError, TypeError):
        first = listing.strip().partition("\n")[0]
        raise FlagdeployError(f"tt-smi: no device_info in its output: {first}") from None
    bundles = {chip["firmwares"]["fw_bundle_version"] for chip in chips}
    if len(bundles) > 1:
        versions = ", ".join(sorted(bundles))
        raise FlagdeployError(
            f"tt-smi: boards with different firmware: {versions}",
            "flash all boards with one firmware bundle (tt-flash)",
        )
    return [_device(index, chip, driver) for index, chip in enumerate(chips)]


def board(chip: dict[str, Any]) -> str:
    """The board of a chip; the chips of a two-chip board end in `` L`` and `` R``."""
    name: str = chip["board_info"]["board_type"]
    return name.removesuffix(" L").removesuffix(" R")


def _device(index: int, chip: dict[str, Any], driver: str) -> Device:
    info, name = chip["board_info"], board(chip)
    dram = next((gib for known, gib in _DRAM_GIB.items() if name.startswith(known)), None)
    return Device(
        index=index,
        name=name,
        uuid=f"{info['board_id']}@{info['bus_id']}",
        memory_total_mib=dram * 1024 if dram else None,
        driver=driver,
    )
