"""The same as the top-level module ``flash_attn_interface``."""

from flash_attn_interface import *  # noqa: F403  what this module is for
