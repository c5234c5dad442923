"""Parses `nvidia-smi --query-gpu=... --format=csv,noheader,nounits`."""

import csv

from flagdeploy.errors import FlagdeployError
from flagdeploy.vendors.base import Device

_COLUMNS = 8
# What nvidia-smi writes where a GPU does not report a value, e.g. memory of a GB10.
_ABSENT = {"n/a", "unknown", "not supported", "not available", "unknown error", ""}


def devices(listing: str) -> list[Device]:
    """One device for each line: index, uuid, name, memory total and used (MiB), utilization (%),
    temperature (degrees Celsius), driver version.

    Raises FlagdeployError for a line of another shape, such as an error message of the driver.
    """
    rows = csv.reader(listing.strip().splitlines(), skipinitialspace=True)
    return [_device(row) for row in rows if row]


def _device(row: list[str]) -> Device:
    if len(row) != _COLUMNS or not row[0].strip().isdigit():
        raise FlagdeployError(f"nvidia-smi: unexpected output: {','.join(row).strip()}")
    index, uuid, name, total, used, load, heat, driver = (value.strip() for value in row)
    return Device(
        index=int(index),
        name=name,
        uuid=uuid,
        memory_total_mib=_number(total),
        memory_used_mib=_number(used),
        utilization_percent=_number(load),
        temperature_c=_number(heat),
        driver=_text(driver),
    )


def _number(value: str) -> int | None:
    return None if not _text(value) else int(float(value.split()[0]))


def _text(value: str) -> str:
    return "" if value.strip("[]").strip().lower() in _ABSENT else value
