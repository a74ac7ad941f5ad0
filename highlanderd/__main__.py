"""The command ``highlanderd``. Ctrl-C while the rest is imported is answered, too."""

import sys


def main() -> None:
    """Run the command and exit with its code."""
    try:
        from highlanderd.command_line import main as command

        command()
    except KeyboardInterrupt:
        from highlanderd.errors import INTERRUPTED

        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
