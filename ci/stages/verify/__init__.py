"""The verify stage: serves a site, compares it with its manifest, and installs from it as its page shows."""

from ci.stages.verify.verify import verify

__all__ = ["verify"]
