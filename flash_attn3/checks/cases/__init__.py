"""Correctness cases, as plain data."""
