"""Checks of an installed flash_attn3 on the GPU of this machine, with nothing but Python and torch.

The same code serves ``python -m flash_attn3 selftest``, the farm's ``validate`` and the GPU tests. A check
takes the attention function it judges as an argument, so that the checks themselves can be checked with wrong
ones.
"""
