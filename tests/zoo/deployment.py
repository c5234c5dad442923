"""One row's deployment: the project's server, started as it is always started, and changed.

python -m zoo.deployment ROW [arguments of flagdeploy.server]
"""

import sys

import torch

from flagdeploy.server import __main__ as server
from flagdeploy.server import model
from flagdeploy.server.model import LoadedModel, LoadOptions
from zoo.faults import replaced
from zoo.rows import ROWS


def main(name: str, arguments: list[str]) -> int:
    change, plain = ROWS[name].change, model.load

    def changed(options: LoadOptions) -> LoadedModel:
        with torch.no_grad():
            return change(plain(options)) if change else plain(options)

    replaced(model, "load", changed)
    return server.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
