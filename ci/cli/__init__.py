"""The command line: one module a group of commands; ``app`` assembles them.

A command imports its stage when it runs, so that ``farm --help`` imports none.
"""
