"""Checks of an installed flash_attn3 on the GPU of this machine. They need Python and torch only.

``python -m flash_attn3 selftest``, the farm's ``validate`` and the GPU tests run the same checks. A check
takes the function under test as an argument, so that tests can run the checks on wrong functions.

Rooms, each of which imports only those before it: cases, data, truth, behaviour and speed, ops.
"""
