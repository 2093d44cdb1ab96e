"""Names of the implementations that are timed, as reports state them."""

OURS = "flash_attn3"
CUDNN = "cudnn"
FLASH = "flash"  # torch's own flash backend
FA3 = "fa3"  # the existing FlashAttention-3, see ``race_peer``

OTHERS = (CUDNN, FLASH, FA3)
