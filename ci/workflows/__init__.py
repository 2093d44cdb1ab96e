"""Generates the workflows of the public farm, for GitHub Actions, from the matrix."""
