"""Reads validation reports and summarises them for the index."""
