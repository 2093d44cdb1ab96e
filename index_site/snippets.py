"""The install lines of the page. The verify stage runs each :class:`Snippet` and no :class:`Recipe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from index_site.projects import COMPAT_PROJECT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from index_site.manifest import Channel, Wheel


@dataclass(frozen=True)
class Snippet:
    """One way to install: a command, and the file that it reads, if any.

    Attributes:
        key: name of the way within the page.
        title: for readers.
        base: address of the site as it stands in ``command`` and ``file_text``, with its final slash.
        command: a shell command.
        file_name: file that the command reads from the current folder; empty for none.
        file_text: contents of that file.
        modules: modules that can then be imported, besides ``flash_attn3``.
    """

    key: str
    title: str
    base: str
    command: str
    file_name: str = ""
    file_text: str = ""
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Lines that the verify stage cannot run, as they need what is not on every machine or the public index.

    Attributes:
        key: name of the recipe within the page.
        title: for readers.
        base: address of the site as it stands in ``text``, with its final slash.
        text: the lines; ``{python}``, ``{torch}`` and ``{cuda}`` stand for those of the selected cell.
        needs: what keeps the verify stage from running them.
        file_name: file that holds the lines; empty for shell commands.
    """

    key: str
    title: str
    base: str
    text: str
    needs: str
    file_name: str = ""


def snippets(base: str, channel: Channel, release: Sequence[Wheel]) -> tuple[Snippet, ...]:
    """Return the ways to install one release, the two most used first.

    The pip commands use this index only: pip gives no index priority, so that with a second index it could
    take a project of the same name from there. torch must therefore be installed before.

    Args:
        base: address of the site, with its final slash.
        channel: the channel to install from.
        release: every wheel of one project and version on the channel; at least one.
    """
    project, version = release[0].project, release[0].version
    index = f"{base}{channel}/simple/"
    hashes = "".join(f" \\\n    --hash=sha256:{wheel.sha256}" for wheel in release)
    return (
        Snippet("pip", "pip", base, f"pip install --index-url {index} {project}"),
        Snippet("uv", "uv", base, f"uv pip install --index {index} {project}"),
        Snippet(
            "find-links",
            "pip, with find-links",
            base,
            f"pip install --no-index --find-links {base}{channel}/index.html {project}",
        ),
        Snippet(
            "json",
            "pip, from the JSON pages, which also have what --uploaded-prior-to needs",
            base,
            f"pip install --index-url {index}v1+json/ {project}",
        ),
        Snippet(
            "hashes",
            "pip, with pinned hashes",
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
        Snippet(
            "uv-toml",
            "uv, with a uv.toml for every project below its folder",
            base,
            f"uv pip install {project}=={version}",
            "uv.toml",
            f'[[index]]\nname = "{project}"\nurl = "{index}"\n',
        ),
    )


def recipes(base: str, channel: Channel, release: Sequence[Wheel]) -> tuple[Recipe, ...]:
    """Return the recipes for one release; the arguments are those of :func:`snippets`."""
    project, version = release[0].project, release[0].version
    index = f"{base}{channel}/simple/"
    torch = 'uv pip install --torch-backend {cuda} "torch=={torch}.*"'
    return (
        Recipe("torch", "uv, to install torch first", base, torch, needs="the public index"),
        Recipe(
            "dockerfile",
            "Dockerfile",
            base,
            "FROM python:3-slim\n"
            "RUN pip install uv && uv venv --python {python} /venv\n"
            "ENV VIRTUAL_ENV=/venv PATH=/venv/bin:$PATH\n"
            f"RUN {torch}\n"
            f"RUN uv pip install --index {index} {project}=={version}\n",
            needs="Docker and the public index",
            file_name="Dockerfile",
        ),
        Recipe(
            "poetry",
            "poetry",
            base,
            f"poetry source add --priority explicit {project} {index}\n"
            f"poetry add --source {project} {project}=={version}",
            needs="poetry and the public index",
        ),
    )


def compat_snippet(base: str, channel: Channel) -> Snippet:
    """Return the way to install the compatibility wheel together with the project that it requires.

    Args:
        base: address of the site, with its final slash.
        channel: the channel to install from.
    """
    return Snippet(
        "compat",
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
