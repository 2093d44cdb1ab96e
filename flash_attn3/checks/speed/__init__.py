"""Races against other implementations, and host time."""
