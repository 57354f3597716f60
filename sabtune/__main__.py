"""Entry point of `python -m sabtune`."""

import sys

from sabtune import interrupts


def main() -> None:
    """Run the command line, with signals handled from the first import on."""
    interrupts.install()
    try:
        from sabtune.cli import main as command
    except KeyboardInterrupt:
        sys.exit(interrupts.exit_code())
    command()


if __name__ == "__main__":
    main()
