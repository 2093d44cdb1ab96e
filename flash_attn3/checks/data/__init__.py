"""Tensors of a case, and the calls that take them."""
