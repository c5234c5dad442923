"""Entry of the program: `flagdeploy` and `python -m flagdeploy`."""

import gc
import sys


def main() -> None:
    # Start-up makes many objects that live on; looking among them for garbage is a tenth of it.
    gc.set_threshold(100_000)
    try:
        from flagdeploy.cli.app import main as run

        run()
    except KeyboardInterrupt:  # while still importing; later the command line catches it
        sys.exit(130)


if __name__ == "__main__":
    main()
