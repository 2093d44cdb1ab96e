"""Runs compile jobs: the cache, the job, the local engine (ninja), the toolkits to compile with."""
