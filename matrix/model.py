"""Read ``matrix.toml`` strictly: unknown keys, wrong types and contradictions are errors with the key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tomli
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from matrix.block import Block
from matrix.errors import MatrixError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pydantic_core import ErrorDetails

MATRIX_FILE = Path(__file__).with_name("matrix.toml")
_SHORTEST_REASON = 10


def _like(pattern: str, example: str) -> AfterValidator:
    """Return a check that a text matches a pattern; its error shows an example instead of the pattern."""
    compiled = re.compile(pattern, re.ASCII)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"should be {example}")
        return text

    return AfterValidator(check)


def _specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        raise ValueError("should be a version specifier such as '>=2.12'") from None
    return text


def _reason(text: str) -> str:
    if len(text.strip()) < _SHORTEST_REASON:
        raise ValueError(f"should be a reason of at least {_SHORTEST_REASON} characters")
    return text.strip()


_Reason = Annotated[str, AfterValidator(_reason)]
_Digits64 = Annotated[str, _like(r"[0-9a-f]{64}", "64 hexadecimal digits")]
_Platform = Annotated[str, _like(r"[a-z0-9_]+", "a platform such as 'linux_x86_64'")]
_Python = Annotated[str, _like(r"[1-9]\.(0|[1-9][0-9]*)t?", "a Python such as '3.12' or '3.13t'")]
_Minor = Annotated[str, _like(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)", "a version such as '2.11'")]
_Cuda = Annotated[str, _like(r"cu[1-9][0-9]+", "a CUDA build of torch such as 'cu130'")]
_KeyName = Annotated[str, _like(r"[A-Za-z0-9._-]+", "a name of letters, digits, '.', '_' and '-'")]
_Sm = Annotated[str, _like(r"[1-9][0-9]+|newer", "an SM such as '90', or 'newer'")]
_Specifier = Annotated[str, AfterValidator(_specifier)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Release(_Table):
    """The release policy."""

    cadence_days: Annotated[int, Field(gt=0)]
    channels: tuple[Literal["stable", "candidate"], ...]
    toolkit: str
    """Toolkit that compiles the kernels of released wheels."""
    required: Annotated[tuple[str, ...], Field(min_length=1)]
    """Operators that need a kernel on a cell's GPU for the cell to count as served."""
    keep_candidates_days: Annotated[int, Field(gt=0)]
    """Days after which `farm prune` removes a wheel that is not stable."""
    min_cases: Annotated[int, Field(gt=0)]
    """Cases of each category that a validation report must have run with each kernel."""
    keys: dict[_KeyName, _Digits64] = {}
    """Name -> ed25519 public key of those whose signature vouches for a validation report."""


class Compile(_Table):
    """The limits of one compile."""

    time_limit_s: Annotated[int, Field(gt=0)]
    memory_limit_mb: Annotated[int, Field(gt=0)]


class Axes(_Table):
    """The axes whose values are nothing but names."""

    python: tuple[_Python, ...]
    torch: tuple[_Minor, ...]
    cuda: tuple[_Cuda, ...]


class Platform(_Table):
    """An operating system and a processor; nothing is built for a platform without a target."""

    name: _Platform
    target: str | None = None
    """Compile target of the host libraries, such as ``x86_64-linux-gnu.2.17``."""
    tag: str | None = None
    """Platform tag of the wheel, such as ``manylinux_2_17_x86_64``."""
    proof: Literal["gpu", "emulation"] = "gpu"
    """What ``stable`` asks for: a validation on a GPU; or an emulation, with kernels that a GPU validated."""


class Sm(_Table):
    """A GPU architecture; the one named ``newer`` stands for all later than those listed."""

    name: _Sm
    gpus: str
    """Product names."""


class PinnedWheel(_Table):
    """A wheel pinned to one file."""

    name: str
    version: str
    sha256: _Digits64

    @property
    def requirement(self) -> str:
        """Line of a requirements file that accepts this file only."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


class Toolkit(_Table):
    """A CUDA compiler with its headers, as pinned wheels."""

    name: _Minor
    cuda: tuple[int, ...]
    """CUDA major versions whose drivers load its cubins."""
    wheels: Annotated[tuple[PinnedWheel, ...], Field(min_length=1)]


class Exclusion(_Table):
    """A rule that excludes the cells that match every axis it names."""

    reason: _Reason
    platform: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    torch: _Specifier = ""
    cuda: tuple[str, ...] = ()
    sm: tuple[str, ...] = ()

    def block(self, torch: Iterable[str]) -> Block | None:
        """Return the cells that the rule excludes; None if its specifier matches none of these torches."""
        specifier = SpecifierSet(self.torch)
        matching = tuple(version for version in torch if version in specifier) if self.torch else ()
        if self.torch and not matching:
            return None
        return Block(platform=self.platform, torch=matching, cuda=self.cuda, python=self.python, sm=self.sm)


class Matrix(_Table):
    """The whole file."""

    schema_version: Literal[2]
    release: Release
    compile: Compile
    axes: Axes
    platform: tuple[Platform, ...]
    sm: tuple[Sm, ...]
    toolkit: tuple[Toolkit, ...]
    exclude: tuple[Exclusion, ...] = ()

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """The values of each axis of a cell."""
        return {
            "platform": tuple(platform.name for platform in self.platform),
            "python": self.axes.python,
            "torch": self.axes.torch,
            "cuda": self.axes.cuda,
            "sm": tuple(sm.name for sm in self.sm),
        }


def read_matrix(path: Path = MATRIX_FILE) -> Matrix:
    """Read and check a matrix file.

    Raises:
        MatrixError: the file cannot be read, or a value in it is wrong; the text starts with the key.
    """
    try:
        document = tomli.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError) as error:
        raise MatrixError(f"{path}: cannot be read: {error}") from error
    try:
        matrix = Matrix.model_validate(_tuples(document))
    except ValidationError as error:
        raise MatrixError(_in_words(error.errors()[0])) from None
    _check(matrix)
    return matrix


def _tuples(value: object) -> object:
    """Turn every list into a tuple, which strict validation demands."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value


def _in_words(error: ErrorDetails) -> str:
    """Return a validation error as one line: the key, what it should be, and what it is."""
    key = _key(error["loc"])
    if error["type"] == "missing":
        return f"{key}: is missing"
    if error["type"] == "extra_forbidden":
        return f"{key}: is not a key of this table; remove it or correct its name"
    expected = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}: {expected[:1].lower()}{expected[1:]}, got {error['input']!r}"


def _key(location: Iterable[str | int]) -> str:
    """``("toolkit", 1, "wheels", 0, "sha256")`` -> ``toolkit[1].wheels[0].sha256``."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".")


def _check(matrix: Matrix) -> None:
    """Check the rules that span several tables."""
    values = matrix.values
    toolkits = tuple(toolkit.name for toolkit in matrix.toolkit)
    for axis, names in (*values.items(), ("toolkit", toolkits)):
        _require_unique(axis, names)
    _require_unique("release.required", matrix.release.required)
    if matrix.release.toolkit not in toolkits:
        raise MatrixError(
            f"release.toolkit: should be one of {_list(toolkits)}, got {matrix.release.toolkit!r}"
        )
    for index, platform in enumerate(matrix.platform):
        if (platform.target is None) != (platform.tag is None):
            present = "target" if platform.tag is None else "tag"
            raise MatrixError(
                f"platform[{index}]: should have both target and tag or neither, got {present} alone"
            )
        if platform.proof == "emulation" and platform.tag is None:
            raise MatrixError(f"platform[{index}].proof: should be 'gpu' without a tag, got 'emulation'")
    for index, toolkit in enumerate(matrix.toolkit):
        _require_unique(f"toolkit[{index}].wheels", [wheel.name for wheel in toolkit.wheels])
    for index, exclusion in enumerate(matrix.exclude):
        _check_exclusion(f"exclude[{index}]", exclusion, values)


def _check_exclusion(key: str, exclusion: Exclusion, values: Mapping[str, Sequence[str]]) -> None:
    if not (exclusion.platform or exclusion.python or exclusion.torch or exclusion.cuda or exclusion.sm):
        raise MatrixError(f"{key}: should name at least one axis, got none, which excludes every cell")
    for axis in ("platform", "python", "cuda", "sm"):
        for index, value in enumerate(getattr(exclusion, axis)):
            if value not in values[axis]:
                raise MatrixError(
                    f"{key}.{axis}[{index}]: should be one of {_list(values[axis])}, got {value!r}"
                )


def _require_unique(key: str, values: Sequence[str]) -> None:
    if not values:
        raise MatrixError(f"{key}: should name at least one, got none")
    for value in values:
        if values.count(value) > 1:
            raise MatrixError(f"{key}: should name each once, got {value!r} twice")


def _list(values: Iterable[str]) -> str:
    return ", ".join(repr(value) for value in values)
