"""The actions that the workflows use, each pinned by its commit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Action:
    """One action at one commit."""

    name: str
    commit: str
    version: str
    """The release that the commit is of, for the comment behind it."""

    def __str__(self) -> str:
        return f"{self.name}@{self.commit} # {self.version}"


ACTIONS = {
    "checkout": Action("actions/checkout", "08c6903cd8c0fde910a37f88322edcfb5dd907a8", "v5.0.0"),
    "upload": Action("actions/upload-artifact", "330a01c490aca151604b8cf639adc76d48f6c5d4", "v5.0.0"),
    "download": Action("actions/download-artifact", "634f93cb2916e3fdff6788551b99b062d0335ce0", "v5.0.0"),
}
