"""The stages of the farm: plan, build, audit, validate, publish, verify."""
