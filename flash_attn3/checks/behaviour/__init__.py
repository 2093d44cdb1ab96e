"""Behaviour beyond numbers: memory, invariance, streams, threads, processes."""
