"""The matrix: axes, exclusions with reasons, and the plan that maps every cell to an artefact."""
