"""The tensors of a case."""
