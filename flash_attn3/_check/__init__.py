"""Checks of arguments and tensors, and the errors that name them."""
