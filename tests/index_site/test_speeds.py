"""The page's section on speed: each cell of a report once, means over named cells, no ratio to a fallback."""

from __future__ import annotations

import json
import re
import statistics
from html import unescape
from typing import Any

import pytest

from index_site.pages import render
from index_site.proofs import PeerSpeed, Proof
from index_site.speed_section import gpu_speeds
from index_site.speeds import PEERS, Shape, release_speeds, speed_history
from tests.page_kit import KEPT, REPORTED
from tests.site_kit import manifest_wheel, proof, site_manifest

TIMES = "\N{MULTIPLICATION SIGN}"
BACKWARD = {"bwd_bf16_d64_full_s512": 0.5}
VARLEN = {"bf16_d128_full_varlen_s1": 9.0}
PLAIN = {"group": 1, "head_dim_v": None, "window": None, "varlen": False, "deterministic": False}
DEFAULTS = {"op": "fwd", "deterministic": False}  # of races that do not say them
OPERATORS = {"forward": "fwd", "backward": "bwd"}
RIVALS = {
    "forward": tuple(PEERS),
    "backward": ("cudnn", "flash"),
}  # the other FlashAttention-3 has no backward


def race_ratios(peer: str, direction: str) -> dict[str, float]:
    """From the text of the report itself."""
    wanted = PLAIN | {"op": OPERATORS[direction]}
    races = json.loads(KEPT.raw)["races"]
    plain = [
        race
        for race in races
        if not race["kernels"] and wanted.items() <= (DEFAULTS | race["setting"]).items()
    ]
    return {race["name"]: race[f"ratio_to_{peer}"] for race in plain}


def raced(**ratios: float) -> Proof:
    """A proof with races of these names; ours has 100 TFLOP/s, and FlashAttention-3 80."""
    return proof("x").model_copy(
        update={
            "races": ratios,
            "tflops": dict.fromkeys(ratios, 100.0),
            "peers": {"fa3": {name: PeerSpeed(tflops=80.0, ratio=1.25) for name in ratios}},
        }
    )


def page_of(*wheels: Any) -> str:
    return unescape(render(site_manifest(*wheels))["index.html"].decode())


def test_the_real_report_is_charted_cell_by_cell() -> None:
    wheel = manifest_wheel("0.1.0", channel="stable", proofs=(REPORTED,))
    (speeds,) = release_speeds([wheel])
    assert [each.direction for each in speeds.directions] == list(OPERATORS)
    for each in speeds.directions:
        names = race_ratios("cudnn", each.direction)
        cells = [(panel.head_dim, panel.mask, seqlen) for panel in each.panels for seqlen in panel.seqlens]
        shapes = [Shape.parse(name) for name in names]
        assert sorted(cells) == sorted((s.head_dim, s.mask, s.seqlen) for s in shapes if s)
        assert len(cells) == len(names)
        for found, peer in zip(each.comparisons, RIVALS[each.direction], strict=True):
            ratios = race_ratios(peer, each.direction)
            assert (found.other, found.count) == (PEERS[peer], len(ratios))
            assert found.mean == pytest.approx(statistics.geometric_mean(ratios.values()))
            slowest = min(ratios, key=ratios.__getitem__)
            assert (found.least, found.least_shape) == (ratios[slowest], Shape.parse(slowest))
            assert max(ratios.values()) < 4  # a ratio to a fallback is ten or more

    assert len(race_ratios("cudnn", "forward")) > 30
    assert len(race_ratios("cudnn", "backward")) == 24

    page = page_of(wheel)
    charts = sum(len(each.panels) for each in speeds.directions)
    assert page.count("<svg viewBox") == charts + 1 + len(PEERS)
    assert ">Backward</h3>" in page
    for timing in json.loads(KEPT.raw)["races"][0]["timings"]:
        assert f"<td>{timing['tflops']:.0f}</td>" in page
    for found in (found for each in speeds.directions for found in each.comparisons):
        assert f"{found.mean:.2f} {TIMES} its speed, the geometric mean of {found.count} cells" in page
        assert f"least {found.least:.2f} {TIMES}: {found.least_shape}" in page
    assert re.search(r"TFLOP/s by tokens, bf16, head_dim 128, causal: flash-attn3 \d+ to \d+; Flash", page)


def test_races_without_a_kernel_of_cudnn_are_no_cells() -> None:
    fallback = {"bf16_d128_full_varlen_s16384": 14.3, "bf16_d64x512_full_s1024": 9.0}
    found = raced(bf16_d128_full_s4096=1.2, **fallback)
    (speeds,) = release_speeds([manifest_wheel("0.1.0", proofs=(found,))])
    (forward,) = speeds.directions
    assert [comparison.count for comparison in forward.comparisons] == [1, 1]
    assert [comparison.mean for comparison in forward.comparisons] == pytest.approx([1.25, 1.2])


@pytest.mark.parametrize(
    "change",
    [{"passed": False}, {"quick": True}, {"races": {}}, {"races": VARLEN, "tflops": VARLEN}],
)
def test_a_report_that_failed_or_has_no_cells_is_not_charted(change: dict[str, Any]) -> None:
    wheel = manifest_wheel("0.1.0", proofs=(raced(bf16_d128_full_s4096=1.2).model_copy(update=change),))
    assert gpu_speeds(site_manifest(wheel), [wheel]) == ()
    assert 'id="speed"' not in page_of(wheel)


def test_a_report_without_other_speeds_still_has_a_chart_of_ours() -> None:
    """As manifests of before had them."""
    wheel = manifest_wheel("0.1.0", channel="stable")
    page = page_of(wheel)
    (speeds,) = gpu_speeds(site_manifest(wheel), [wheel])
    assert speeds.legend == (("ours", "flash-attn3"),)
    (forward,) = speeds.directions
    assert [chart.title for chart in forward.charts] == [
        "bf16, head_dim 128, full",
        "bf16, head_dim 128, causal",
    ]
    assert forward.charts[0].rows == (("4096", "612"), ("16384", "612"))
    assert ">Forward</h3>" not in page  # one direction needs no heading
    assert f"1.07 {TIMES} its speed, the geometric mean of 4 cells" in page


def test_a_report_with_races_of_the_backward_alone_is_charted() -> None:
    wheel = manifest_wheel("0.1.0", channel="stable", proofs=(raced(**BACKWARD),))
    page = page_of(wheel)
    assert "Backward on NVIDIA H200" in page
    assert "backward, bf16, head_dim 64, full" in page
    assert "speed relative to cuDNN" not in page


def test_each_gpu_has_its_own_charts_from_its_largest_report() -> None:
    small, large = raced(bf16_d128_full_s4096=1.2), raced(bf16_d128_full_s4096=1.3, bf16_d128_full_s512=1.1)
    other = small.model_copy(update={"gpu": "NVIDIA H100"})
    found = release_speeds([manifest_wheel("0.1.0", proofs=(small, large, other))])
    assert [(speeds.proof.gpu, len(speeds.proof.races)) for speeds in found] == [
        ("NVIDIA H200", 2),
        ("NVIDIA H100", 1),
    ]


def test_releases_are_compared_over_the_cells_that_all_have() -> None:
    wheels = [
        manifest_wheel(
            "0.9.0", proofs=(raced(bf16_d128_full_s512=1.0, bf16_d128_full_s4096=1.1, **BACKWARD),)
        ),
        manifest_wheel(
            "0.10.0", proofs=(raced(bf16_d128_full_s4096=1.21, bf16_d64_full_s1=3.0, **BACKWARD),)
        ),
        manifest_wheel("0.9.5"),
        manifest_wheel("0.12.0", proofs=(raced(bf16_d128_full_s4096=9.9),), yanked="wrong"),
    ]
    history = speed_history(site_manifest(*wheels), "NVIDIA H200", "candidate")
    assert history is not None
    assert history.count == 1
    assert history.means == (("0.9.0", pytest.approx(1.1)), ("0.10.0", pytest.approx(1.21)))
    assert speed_history(site_manifest(*wheels), "NVIDIA H100", "candidate") is None
    assert "Speed relative to cuDNN by release: 0.9.0 1.10; 0.10.0 1.21" in page_of(*wheels)


def test_candidates_are_not_compared_with_stable_releases() -> None:
    cell = raced(bf16_d128_full_s4096=1.2)
    stable = [manifest_wheel(f"0.{n}.0", channel="stable", proofs=(cell,)) for n in (1, 2)]
    manifest = site_manifest(*stable, manifest_wheel("0.3.0", proofs=(cell,)))
    history = speed_history(manifest, "NVIDIA H200", "stable")
    assert history is not None
    assert [version for version, _ in history.means] == ["0.1.0", "0.2.0"]
    assert speed_history(manifest, "NVIDIA H200", "candidate") is None


def test_one_release_or_no_cell_in_common_is_no_history() -> None:
    one = manifest_wheel("0.1.0", proofs=(raced(bf16_d128_full_s512=1.0),))
    other = manifest_wheel("0.2.0", proofs=(raced(bf16_d128_full_s4096=1.1),))
    for wheels in ([one], [one, other], []):
        assert speed_history(site_manifest(*wheels), "NVIDIA H200", "candidate") is None
    assert "cuDNN by release" not in page_of(one, other)


def test_a_long_history_keeps_the_newest_releases() -> None:
    wheels = [manifest_wheel(f"0.{n}.0", proofs=(raced(bf16_d128_full_s512=1 + n / 100),)) for n in range(20)]
    history = speed_history(site_manifest(*wheels), "NVIDIA H200", "candidate")
    assert history is not None
    assert [version for version, _ in history.means] == [f"0.{n}.0" for n in range(8, 20)]
