"""The matrix: the axes, the exclusions with their reasons, and what they make to be built."""
