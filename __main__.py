"""`lockgate` and `python -m lockgate`."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from .agent.cli import run

    run()


if __name__ == "__main__":
    main()
