"""Validation reports, as the farm reads and keeps them."""
