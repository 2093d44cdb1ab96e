"""Speed as validation reports have it: cells with their medians, means over cells, and releases compared.

A cell is one race of forward or backward for which cuDNN has a kernel of its own: no ratio is one to a
fallback.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from index_site.projects import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from index_site.manifest import Channel, Manifest, Wheel
    from index_site.proofs import Proof

OURS = "ours"
PEERS = {"fa3": "FlashAttention-3", "cudnn": "cuDNN", "flash": "torch\N{RIGHT SINGLE QUOTATION MARK}s flash"}
"""The other implementations by their names in reports, in the order of the page."""
DIRECTIONS = ("forward", "backward")
_BACKWARD = "bwd_"  # begins the name of a race of the backward
_SHAPE = re.compile(r"(?P<dtype>[a-z0-9]+)_d(?P<head_dim>\d+)_(?P<mask>full|causal)_s(?P<seqlen>\d+)")
_RELEASES = 12


@dataclass(frozen=True)
class Shape:
    """The shape of a cell."""

    dtype: str
    head_dim: int
    mask: str
    seqlen: int

    @property
    def order(self) -> tuple[str, int, bool, int]:
        """Its place among the shapes of the page."""
        return self.dtype, self.head_dim, self.mask != "full", self.seqlen

    @classmethod
    def parse(cls, name: str) -> Shape | None:
        """Parse the name of a race; None for one of another kind."""
        found = _SHAPE.fullmatch(name.removeprefix(_BACKWARD))
        if found is None:
            return None
        return cls(found["dtype"], int(found["head_dim"]), found["mask"], int(found["seqlen"]))

    def __str__(self) -> str:
        return f"head_dim {self.head_dim}, {self.mask}, {self.seqlen} tokens"


@dataclass(frozen=True)
class Comparison:
    """How fast the release is in comparison with another implementation.

    Attributes:
        other: its name.
        mean: geometric mean of the ratios; 1.2 is 1.2 times as fast as the other.
        least: the smallest ratio.
        least_shape: the cell that has it.
        count: number of cells.
    """

    other: str
    mean: float
    least: float
    least_shape: Shape
    count: int


@dataclass(frozen=True)
class Panel:
    """The cells of one dtype, head dimension and mask.

    Attributes:
        seqlens: ascending.
        speeds: implementation -> TFLOP/s by seqlen.
        comparisons: with each other implementation.
    """

    dtype: str
    head_dim: int
    mask: str
    seqlens: tuple[int, ...]
    speeds: Mapping[str, Mapping[int, float]]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class DirectionSpeeds:
    """The cells of one direction."""

    direction: str
    comparisons: tuple[Comparison, ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Speeds:
    """The speed of a release on one GPU, by one report; directions without a cell are left out."""

    proof: Proof
    directions: tuple[DirectionSpeeds, ...]


@dataclass(frozen=True)
class History:
    """Geometric means of the ratio to cuDNN of the forward over the cells that all these releases have."""

    gpu: str
    count: int
    means: tuple[tuple[str, float], ...]
    """Version and mean, the oldest release first."""


def ratios_of(proof: Proof, direction: str) -> dict[str, float]:
    """Return the ratios to cuDNN in the races of a direction, by the name of the race."""
    backward = direction == "backward"
    return {name: ratio for name, ratio in proof.races.items() if name.startswith(_BACKWARD) == backward}


def release_speeds(release: Iterable[Wheel]) -> tuple[Speeds, ...]:
    """Return the speed of a release on each GPU that validated it, by the report with most cells."""
    return tuple(_speeds(proof) for proof in _best_proofs(release).values())


def speed_history(manifest: Manifest, gpu: str, channel: Channel) -> History | None:
    """Return the speed of a channel's newest releases on one GPU.

    None with fewer than two releases, or without a cell that all have.
    """
    wheels = (
        wheel
        for wheel in reversed(manifest.wheels)
        if wheel.project == PROJECT and wheel.channel == channel and wheel.yanked is None
    )
    found: dict[str, dict[str, float]] = {}
    for version, release in groupby(wheels, key=attrgetter("version")):  # the manifest sorts by version
        proof = _best_proofs(wheel for wheel in release if wheel.is_shown).get(gpu)
        if proof is not None:
            found[version] = ratios_of(proof, "forward")
        if len(found) == _RELEASES:
            break
    shared = sorted(set.intersection(*map(set, found.values()))) if found else []
    if len(found) < 2 or not shared:
        return None
    means = [
        (version, statistics.geometric_mean(races[name] for name in shared))
        for version, races in found.items()
    ]
    return History(gpu, len(shared), tuple(reversed(means)))


def _best_proofs(release: Iterable[Wheel]) -> dict[str, Proof]:
    """Return by GPU the passing proof with most cells."""
    best: dict[str, Proof] = {}
    for wheel in release:
        for proof in wheel.proofs:
            whole = proof.passed and not proof.quick and proof.races
            if whole and (proof.gpu not in best or len(proof.races) > len(best[proof.gpu].races)):
                best[proof.gpu] = proof
    return best


def _speeds(proof: Proof) -> Speeds:
    directions = (_direction_speeds(proof, direction) for direction in DIRECTIONS)
    return Speeds(proof, tuple(each for each in directions if each.panels))


def _direction_speeds(proof: Proof, direction: str) -> DirectionSpeeds:
    names = ratios_of(proof, direction)
    found = {name: shape for name in names if (shape := Shape.parse(name)) is not None}
    shapes = dict(sorted(found.items(), key=lambda item: item[1].order))
    groups: dict[tuple[str, int, str], dict[str, Shape]] = {}
    for name, shape in shapes.items():
        groups.setdefault((shape.dtype, shape.head_dim, shape.mask), {})[name] = shape
    panels = (_panel(proof, members) for members in groups.values())
    return DirectionSpeeds(direction, _comparisons(proof, shapes), tuple(panels))


def _panel(proof: Proof, shapes: Mapping[str, Shape]) -> Panel:
    first, *_ = shapes.values()
    seqlens = tuple(shape.seqlen for shape in shapes.values())
    speeds, comparisons = _tflops(proof, shapes), _comparisons(proof, shapes)
    return Panel(first.dtype, first.head_dim, first.mask, seqlens, speeds, comparisons)


def _tflops(proof: Proof, shapes: Mapping[str, Shape]) -> dict[str, dict[int, float]]:
    speeds = {OURS: {shape.seqlen: proof.tflops[name] for name, shape in shapes.items()}}
    for peer in PEERS:
        of_peer = proof.peers.get(peer, {})
        found = {shape.seqlen: of_peer[name].tflops for name, shape in shapes.items() if name in of_peer}
        if found:
            speeds[peer] = found
    return speeds


def _comparisons(proof: Proof, shapes: Mapping[str, Shape]) -> tuple[Comparison, ...]:
    found = (_comparison(peer, _ratios(proof, peer), shapes) for peer in PEERS)
    return tuple(comparison for comparison in found if comparison is not None)


def _ratios(proof: Proof, peer: str) -> Mapping[str, float]:
    """Return the ratios to a peer; reports of all ages hold those to cuDNN."""
    if peer == "cudnn":
        return proof.races
    return {name: speed.ratio for name, speed in proof.peers.get(peer, {}).items()}


def _comparison(peer: str, ratios: Mapping[str, float], shapes: Mapping[str, Shape]) -> Comparison | None:
    shared = {name: ratios[name] for name in shapes if name in ratios}
    if not shared:
        return None
    slowest = min(shared, key=shared.__getitem__)
    mean = statistics.geometric_mean(shared.values())
    return Comparison(PEERS[peer], mean, shared[slowest], shapes[slowest], len(shared))
