"""Print what a vLLM wheel requires on this machine, without the packages that have no CPU build.

Usage: python vllm_requirements.py WHEEL TORCH_REQUIREMENT

Runs inside the new virtual environment, where pip's own copy of `packaging` is at hand.
"""

import sys
from email.parser import Parser
from zipfile import ZipFile

from pip._vendor.packaging.requirements import Requirement

LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec"}


def requirements(wheel: str) -> list[str]:
    with ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    wanted = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    return [
        str(requirement)
        for requirement in wanted
        if requirement.name not in LEFT_OUT
        and (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
    ]


if __name__ == "__main__":
    wheel, torch = sys.argv[1:]
    print("\n".join([torch, *requirements(wheel)]))
