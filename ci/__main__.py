"""Run the farm: ``python -m ci``."""

from ci.cli import run_cli

if __name__ == "__main__":
    run_cli()
