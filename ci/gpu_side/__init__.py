"""What runs on a machine with a GPU: validate and tune.

Such a machine needs Python and torch only. The modules here therefore import the standard library, each other
and the standard-library modules ``ci.errors``, ``ci.files`` and ``ci.output``; torch and flash_attn3 are
imported inside functions. ``tests/test_imports.py`` checks that.
"""
