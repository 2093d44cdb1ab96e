"""The farm: plans, builds, audits, validates and publishes wheels, verifies the site, tunes the kernels."""
