from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from kernels.build.pack import PackEntry, read_pack
from kernels.build.payload import LIBRARY_NAMES, PACK_NAME, variant_fields, write_payload
from kernels.table import select

if TYPE_CHECKING:
    from pathlib import Path

(COMBINE,) = select(["combine_sm80"])
LIBRARIES = {name: f"bytes of {name}".encode() for name in LIBRARY_NAMES}


def written(folder: Path, **changes: Any) -> dict[str, Any]:
    """The build record of a payload of one kernel, with changes of what is written."""
    arguments = {"entries": [PackEntry(COMBINE, b"image", "12.8")], "libraries": LIBRARIES, **changes}
    write_payload(folder, version="1.2", platform="manylinux_2_17_x86_64", **arguments)
    document: dict[str, Any] = json.loads((folder / "build.json").read_text())
    return document


def test_a_payload_is_libraries_pack_and_build_record(tmp_path: Path):
    document = written(tmp_path / "payload")
    lib = tmp_path / "payload" / "lib"
    assert {path.name for path in lib.iterdir()} == {*LIBRARY_NAMES, PACK_NAME}
    assert {name: (lib / name).read_bytes() for name in LIBRARY_NAMES} == LIBRARIES
    assert [record.image for record in read_pack(lib / PACK_NAME)] == [b"image"]
    assert list(document) == ["version", "content_digest", "platform", "toolkits", "kernels"]
    assert (document["version"], document["platform"]) == ("1.2", "manylinux_2_17_x86_64")
    assert document["toolkits"] == {COMBINE.name: "12.8"}
    assert document["kernels"] == json.loads(json.dumps([variant_fields(COMBINE)]))


def test_the_content_digest_follows_the_compiled_bytes_alone(tmp_path: Path):
    first = written(tmp_path)["content_digest"]
    assert written(tmp_path / "elsewhere")["content_digest"] == first
    others = [
        written(tmp_path, entries=[PackEntry(COMBINE, b"another", "12.8")]),
        written(tmp_path, entries=[PackEntry(COMBINE, b"image", "13.0")]),
        *(written(tmp_path, libraries={**LIBRARIES, name: b"another"}) for name in LIBRARY_NAMES),
    ]
    assert len({first, *(other["content_digest"] for other in others)}) == 1 + len(others)


def test_the_reason_of_an_allowed_gate_is_not_in_the_build_record(tmp_path: Path):
    records = [
        written(tmp_path, entries=[PackEntry(replace(COMBINE, allow=(("spill", why),)), b"image", "12.8")])
        for why in ("one reason", "another")
    ]
    assert records[0] == records[1]
    assert records[0]["kernels"][0]["allow"] == ["spill"]


def test_what_else_lies_in_the_folder_stays(tmp_path: Path):
    """An editable install writes into the package's own folder. What stays is not part of the payload."""
    alone = written(tmp_path / "alone")
    others = [tmp_path / "tree" / name for name in ("attention.py", "lib/mine.txt", "lib/folder/file")]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    for _ in range(2):
        assert written(tmp_path / "tree") == alone
    assert all(path.read_text() == "mine" for path in others)


def test_a_library_that_is_missing_is_an_error(tmp_path: Path):
    with pytest.raises(KeyError, match=LIBRARY_NAMES[1]):
        written(tmp_path, libraries={LIBRARY_NAMES[0]: b"alone"})
