"""Compiles variants and host libraries, and writes the kernel pack and the payload of a wheel."""
