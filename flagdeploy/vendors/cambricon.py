"""Parses `cnmon_info.json`, which `cnmon info -e -m -u -j` writes into the current folder."""

import json
from typing import Any

from flagdeploy.errors import FlagdeployError
from flagdeploy.vendors.base import Device


def devices(listing: str) -> list[Device]:
    """One device for each card; sizes are MiB, the utilization is the average of the card's cores.

    A card that reports no memory is sick and left out. Raises FlagdeployError when all are, or
    when the output is not cnmon's JSON.
    """
    try:
        cards = json.loads(listing)["CnmonInfo"]
    except (ValueError, KeyError, TypeError):
        first = listing.strip().partition("\n")[0]
        raise FlagdeployError(f"cnmon: no CnmonInfo in its output: {first}") from None
    found = [_device(card) for card in cards if _healthy(card)]
    if cards and not found:
        raise FlagdeployError(f"cnmon: none of {len(cards)} cards reports its memory")
    return found


def _healthy(card: dict[str, Any]) -> bool:
    return _number(card, "PhysicalMemUsage", "Total") not in (None, 0)


def _device(card: dict[str, Any]) -> Device:
    return Device(
        index=int(card["CardNum"]),
        name=card["ProductName"],
        uuid=card.get("UUID", ""),
        memory_total_mib=_number(card, "PhysicalMemUsage", "Total"),
        memory_used_mib=_number(card, "PhysicalMemUsage", "Used"),
        utilization_percent=_number(card, "Utilization", "MLUAverage"),
        temperature_c=_number(card, "Temperature", "Chip"),
    )


def _number(card: dict[str, Any], section: str, key: str) -> int | None:
    value = (card.get(section) or {}).get(key)
    return None if value in (None, "", "N/A") else int(float(value))
