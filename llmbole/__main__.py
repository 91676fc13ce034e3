"""`python -m llmbole` is the command `llmbole`."""

from llmbole.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
