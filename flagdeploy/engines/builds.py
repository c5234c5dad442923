"""Builds of an engine that honour an operator library: rows of `operators:` in env/engines/E.yaml.

Stock engines ignore the library's switch. ``patched`` is an engine patched by FlagScale or by the
chip's vendor, ``plugin`` one with the FL plug-in, ``flagdeploy`` one with the patch set of this
project; ``none`` is the engine as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What FlagGems itself reads, in any build (flag_gems/runtime, 5.0.2).
LIBRARY = {
    "vendor": "GEMS_VENDOR",
    "cache_dir": "FLAGGEMS_CACHE_DIR",
    "db_url": "FLAGGEMS_DB_URL",
    "c_extension": "USE_C_EXTENSION",
    "flagtune": "USE_FLAGTUNE",
}
FILE = "file"
# A file of settings takes the place of these variables, which would be ignored beside it
# (vllm_fl/dispatch/policy.py, `_policy_from_env`).
OVERRIDDEN = ("prefer", "strict", "per_op", "allow_vendors", "deny_vendors")
# Of no effect where a list of the only operators is given (its README, "FlagGems Control").
APPENDED = "blacklist_append"


@dataclass(frozen=True)
class Build:
    """How one build is told, and where it says what it did."""

    on: Mapping[str, str]
    """Variables that switch the library on; the first one is the switch itself."""
    off: Mapping[str, str] = field(default_factory=dict)
    """Variables that switch it off, also where the build itself, the image's environment or, for a
    rank on this machine, the user's shell switches it on."""
    include: str = ""
    """Variable with the only operators to use, with commas between; empty: it cannot choose."""
    exclude: str = ""
    """Variable with the operators to leave out."""
    config: Mapping[str, str] = field(default_factory=dict)
    """Variable of each further setting that `operators.config` takes."""
    log: str = ""
    """Pattern of the files that list the operators called, one per process; a relative one lies in
    the rank's own folder (/tmp in a container)."""
    log_at: Mapping[str, str] = field(default_factory=dict)
    """The variable that moves these files, with the part of `log` that it stands for."""
    unrecorded_on: Mapping[str, str] = field(default_factory=dict)
    """Vendors on which it writes no such file, with the reason."""
    not_on: Mapping[str, str] = field(default_factory=dict)
    """Vendors on which it does not work, with the reason."""

    @property
    def switch(self) -> str:
        return next(iter(self.on))

    @property
    def settings(self) -> Mapping[str, str]:
        """Names that `operators.config` takes, with their variables."""
        return {**LIBRARY, **self.config}


def text(setting: Any) -> str:
    """A setting as the plug-ins read it: 1 and 0, commas between names, ``op=a|b;op2=c``."""
    if isinstance(setting, bool):
        return "1" if setting else "0"
    if isinstance(setting, Mapping):
        return ";".join(f"{name}={_order(value)}" for name, value in setting.items())
    if isinstance(setting, (list, tuple)):
        return ",".join(str(item) for item in setting)
    return str(setting)


def _order(value: Any) -> str:
    return "|".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
