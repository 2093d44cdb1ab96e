"""Runs compile jobs: the cache, the interface of an engine, the local one (ninja), the toolkits."""
