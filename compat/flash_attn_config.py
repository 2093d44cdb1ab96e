"""What this build of FlashAttention-3 can do, in the form in which its callers ask: what was left out."""

CONFIG = {
    "build_flags": {
        "FLASHATTENTION_DISABLE_BACKWARD": True,
        "FLASHATTENTION_DISABLE_SPLIT": True,
        "FLASHATTENTION_DISABLE_PAGEDKV": False,
        "FLASHATTENTION_DISABLE_APPENDKV": True,
        "FLASHATTENTION_DISABLE_LOCAL": False,
        "FLASHATTENTION_DISABLE_SOFTCAP": False,
        "FLASHATTENTION_DISABLE_PACKGQA": False,
        "FLASHATTENTION_DISABLE_FP16": False,
        "FLASHATTENTION_DISABLE_FP8": True,
        "FLASHATTENTION_DISABLE_VARLEN": False,
        "FLASHATTENTION_DISABLE_HDIM64": False,
        "FLASHATTENTION_DISABLE_HDIM96": False,
        "FLASHATTENTION_DISABLE_HDIM128": False,
        "FLASHATTENTION_DISABLE_HDIM192": False,
        "FLASHATTENTION_DISABLE_HDIM256": False,
    }
}
