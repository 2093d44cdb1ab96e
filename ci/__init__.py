"""The stages of the farm: plan, build, audit, validate, publish and verify; and the tuning."""
