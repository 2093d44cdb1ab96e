"""Behaviour beside values: memory, invariance, streams, threads, processes."""
