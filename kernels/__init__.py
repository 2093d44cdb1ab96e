"""Kernels, their host libraries and how both are compiled. Imports neither `flash_attn3` nor the farm."""
