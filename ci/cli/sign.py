"""Commands for the signatures of reports: keygen and sign."""

from __future__ import annotations

from pathlib import Path

import click

_path = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("key_file", metavar="FILE", type=_path)
def keygen(key_file: Path) -> None:
    """Make an ed25519 key to sign reports with.

    Writes the private key to the new FILE, and prints the line of matrix.toml by which its signatures count.
    """
    from ci.proof.signature import new_key

    public = new_key(key_file)
    click.echo(f"the private key is in {key_file}; keep it secret. In [release.keys] of matrix.toml:")
    click.echo(f'"{key_file.stem}" = "{public}"')


@click.command()
@click.argument("reports", metavar="REPORT...", nargs=-1, required=True, type=_path)
@click.option("--key", "key_file", metavar="FILE", required=True, type=_path, help="A private key of keygen.")
def sign(reports: tuple[Path, ...], key_file: Path) -> None:
    """Sign reports of `validate` and `emulate`, in place.

    A signed report puts its wheel on stable where matrix.toml lists the key.
    """
    from ci.proof.signature import sign_report

    for report in reports:
        click.echo(f"{report}: signed with the key {sign_report(report, key_file)}")
