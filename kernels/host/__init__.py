"""The runtime that launches the kernels, and how it is built."""
