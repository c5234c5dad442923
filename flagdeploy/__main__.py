"""Entry of the program: `flagdeploy` and `python -m flagdeploy`."""

import gc


def main() -> None:
    # Start-up makes many objects that live on; looking among them for garbage is a tenth of it.
    gc.set_threshold(100_000)
    from flagdeploy.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
