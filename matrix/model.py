"""Read ``matrix.toml`` strictly: unknown keys, wrong types and contradictions are errors with a place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tomli
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from matrix.errors import MatrixError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MATRIX_FILE = Path(__file__).with_name("matrix.toml")


def _specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        raise ValueError(f"should be a version specifier such as '>=2.12', got {text!r}") from None
    return text


_Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=10)]
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Platform = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]
_Python = Annotated[str, StringConstraints(pattern=r"^[1-9]\.(0|[1-9][0-9]*)t?$")]
_Minor = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$")]
_Cuda = Annotated[str, StringConstraints(pattern=r"^cu[1-9][0-9]+$")]
_Sm = Annotated[str, StringConstraints(pattern=r"^([1-9][0-9]+|newer)$")]
_Specifier = Annotated[str, AfterValidator(_specifier)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Release(_Table):
    """The release policy."""

    cadence_days: Annotated[int, Field(gt=0)]
    channels: tuple[Literal["stable", "candidate"], ...]
    toolkit: str
    """The toolkit whose kernels are shipped."""


class Axes(_Table):
    """The axes that need no more than a name."""

    python: tuple[_Python, ...]
    torch: tuple[_Minor, ...]
    cuda: tuple[_Cuda, ...]


class Platform(_Table):
    """An operating system and a processor; without a target nothing is built for it."""

    name: _Platform
    target: str | None = None
    """The compile target of the host libraries, such as ``x86_64-linux-gnu.2.17``."""
    tag: str | None = None
    """The wheel's platform tag, such as ``manylinux_2_17_x86_64``."""


class Sm(_Table):
    """A GPU architecture, or with the name ``newer`` all that come after those listed."""

    name: _Sm
    gpus: str
    """The products people know it by."""


class PinnedWheel(_Table):
    """A wheel fixed to one file."""

    name: str
    version: str
    sha256: _Sha256

    @property
    def requirement(self) -> str:
        """The line of a requirements file that admits this file alone."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


class Toolkit(_Table):
    """A CUDA compiler with its headers, as a set of wheels."""

    name: _Minor
    cuda: tuple[int, ...]
    """The CUDA major versions whose drivers run its cubins."""
    wheels: Annotated[tuple[PinnedWheel, ...], Field(min_length=1)]


class Exclusion(_Table):
    """Cells that are not served: those that match every axis named here."""

    reason: _Reason
    platform: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    torch: _Specifier = ""
    cuda: tuple[str, ...] = ()
    sm: tuple[str, ...] = ()


class Matrix(_Table):
    """The whole file."""

    schema_version: Literal[1]
    release: Release
    axes: Axes
    platform: tuple[Platform, ...]
    sm: tuple[Sm, ...]
    toolkit: tuple[Toolkit, ...]
    exclude: tuple[Exclusion, ...] = ()


def read_matrix(path: Path = MATRIX_FILE) -> Matrix:
    """Read and check a matrix file.

    Raises:
        MatrixError: if the file cannot be read or says something wrong; the text starts with the place.
    """
    try:
        document = tomli.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError) as error:
        raise MatrixError(f"{path}: cannot be read: {error}") from error
    try:
        matrix = Matrix.model_validate(_tuples(document))
    except ValidationError as error:
        first = error.errors()[0]
        raise MatrixError(f"{_place(first['loc'])}: {first['msg']}, got {first['input']!r}") from None
    _check(matrix)
    return matrix


def _tuples(value: object) -> object:
    """Turn every list into a tuple, the only sequence that frozen tables hold."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value


def _place(location: Iterable[str | int]) -> str:
    """``("toolkit", 1, "wheels", 0, "sha256")`` -> ``toolkit[1].wheels[0].sha256``."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".")


def _check(matrix: Matrix) -> None:
    """Check what one table alone cannot know."""
    axes = {
        "platform": tuple(platform.name for platform in matrix.platform),
        "python": matrix.axes.python,
        "torch": matrix.axes.torch,
        "cuda": matrix.axes.cuda,
        "sm": tuple(sm.name for sm in matrix.sm),
    }
    toolkits = tuple(toolkit.name for toolkit in matrix.toolkit)
    for axis, values in (*axes.items(), ("toolkit", toolkits)):
        _require_unique(axis, values)
    if matrix.release.toolkit not in toolkits:
        raise MatrixError(
            f"release.toolkit: should be one of {_list(toolkits)}, got {matrix.release.toolkit!r}"
        )
    for index, platform in enumerate(matrix.platform):
        if (platform.target is None) != (platform.tag is None):
            raise MatrixError(f"platform[{index}]: target and tag should come together, got only one of them")
    for index, toolkit in enumerate(matrix.toolkit):
        _require_unique(f"toolkit[{index}].wheels", [wheel.name for wheel in toolkit.wheels])
    for index, exclusion in enumerate(matrix.exclude):
        _check_exclusion(f"exclude[{index}]", exclusion, axes)


def _check_exclusion(place: str, exclusion: Exclusion, axes: Mapping[str, Sequence[str]]) -> None:
    if not (exclusion.platform or exclusion.python or exclusion.torch or exclusion.cuda or exclusion.sm):
        raise MatrixError(f"{place}: should name an axis, or it would exclude every cell")
    for axis in ("platform", "python", "cuda", "sm"):
        for index, value in enumerate(getattr(exclusion, axis)):
            if value not in axes[axis]:
                known = _list(axes[axis])
                raise MatrixError(f"{place}.{axis}[{index}]: should be one of {known}, got {value!r}")


def _require_unique(place: str, values: Sequence[str]) -> None:
    if not values:
        raise MatrixError(f"{place}: should name at least one, got none")
    for value in values:
        if values.count(value) > 1:
            raise MatrixError(f"{place}: should name each once, got {value!r} twice")


def _list(values: Iterable[str]) -> str:
    return ", ".join(repr(value) for value in values)
