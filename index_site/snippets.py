"""The lines that people copy from the page; ``verify`` runs exactly these, so none is ever just prose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.project import COMPAT_PROJECT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from index_site.manifest import Channel, Wheel


@dataclass(frozen=True)
class Snippet:
    """One way to install: a command, and the file it reads if there is one.

    ``base`` is the address of the site that occurs in both texts, with its final slash.
    ``modules`` can be imported afterwards, beside ``flash_attn3``.
    """

    key: str
    title: str
    base: str
    command: str
    file_name: str = ""
    file_text: str = ""
    modules: tuple[str, ...] = ()


def snippets(base: str, channel: Channel, release: Sequence[Wheel]) -> tuple[Snippet, ...]:
    """Return the ways to install one release, the two that most people want first.

    The pip lines name this index alone: pip gives no index priority, so a project of the same name elsewhere
    could otherwise answer. torch is therefore to be installed before.

    Args:
        base: address of the site, with its final slash.
        channel: the channel to install from.
        release: every wheel of that project and version on the channel; at least one.
    """
    project, version = release[0].project, release[0].version
    index = f"{base}{channel}/simple/"
    hashes = "".join(f" \\\n    --hash=sha256:{wheel.sha256}" for wheel in release)
    return (
        Snippet("pip", "pip", base, f"pip install --index-url {index} {project}"),
        Snippet("uv", "uv", base, f"uv pip install --index {index} {project}"),
        Snippet(
            "find-links",
            "pip, from the flat page of links",
            base,
            f"pip install --no-index --find-links {base}{channel}/index.html {project}",
        ),
        Snippet(
            "hashes",
            "pip, with the exact bytes pinned",
            base,
            "pip install --require-hashes -r requirements.txt",
            "requirements.txt",
            f"--index-url {index}\n{project}=={version}{hashes}\n",
        ),
        Snippet(
            "pyproject",
            "uv, in a project",
            base,
            "uv pip install -r pyproject.toml",
            "pyproject.toml",
            _pyproject(project, version, index),
        ),
    )


def drop_in(base: str, channel: Channel) -> Snippet:
    """Return the way to install the compatibility wheel, which brings the project along.

    Args:
        base: address of the site, with its final slash.
        channel: the channel to install from.
    """
    return Snippet(
        "drop-in",
        "pip, for code that imports flash_attn_interface",
        base,
        f"pip install --index-url {base}{channel}/simple/ {COMPAT_PROJECT}",
        modules=("flash_attn_interface", "flash_attn_3._C"),
    )


def _pyproject(project: str, version: str, index: str) -> str:
    return f"""\
[project]
name = "my-model"
version = "0.1.0"
requires-python = ">=3.10"
dependencies = ["{project}=={version}"]

[[tool.uv.index]]
name = "{project}"
url = "{index}"
explicit = true

[tool.uv.sources]
{project} = {{ index = "{project}" }}
"""
