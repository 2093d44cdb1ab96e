"""Speed of the best implementation known for each setting, as a multiple of cuDNN in the same process.

Measured on one H200 (700 W), bf16, torch 2.11 + CUDA 13.0, cuDNN 9.19: 16,384 tokens, 2,048 hidden. Only the
ratio is valid on another machine or day.
"""

from __future__ import annotations

# What portable kernels should reach as a multiple of torch's flash backend, which is of their generation.
PORTABLE_OVER_FLASH = 0.9
# (head_dim, causal) -> seqlen -> TFLOP/s of the best over cuDNN's
BEST_OVER_CUDNN: dict[tuple[int, bool], dict[int, float]] = {
    (64, False): {512: 1.00, 1024: 1.00, 2048: 1.08, 4096: 1.14, 16384: 1.25},
    (64, True): {512: 1.00, 1024: 1.00, 2048: 1.08, 4096: 1.15, 16384: 1.26},
    (128, False): {512: 1.00, 1024: 1.04, 2048: 1.07, 4096: 1.14, 16384: 1.16},
    (128, True): {512: 1.00, 1024: 1.00, 2048: 1.28, 4096: 1.35, 16384: 1.40},
    (256, False): {512: 1.01, 1024: 1.15, 2048: 1.13, 4096: 1.17, 16384: 1.21},
    (256, True): {512: 1.00, 1024: 1.11, 2048: 1.21, 4096: 1.37, 16384: 1.42},
}
# The same for the gradient alone.
BEST_BACKWARD_OVER_CUDNN: dict[tuple[int, bool], dict[int, float]] = {
    (64, False): {512: 1.16, 1024: 1.21, 4096: 1.26, 16384: 1.27},
    (64, True): {512: 1.15, 1024: 1.28, 4096: 1.37, 16384: 1.41},
    (128, False): {512: 1.04, 1024: 1.14, 4096: 1.15, 16384: 1.18},
    (128, True): {512: 1.05, 1024: 1.17, 4096: 1.23, 16384: 1.22},
    (256, False): {512: 1.21, 1024: 1.25, 4096: 1.16, 16384: 1.33},
    (256, True): {512: 1.09, 1024: 1.15, 4096: 1.15, 16384: 1.20},
}


def best_over_cudnn(head_dim: int, causal: bool, seqlen: int) -> float | None:
    """Return the best known multiple of cuDNN for a forward call, or None where none was measured."""
    return BEST_OVER_CUDNN.get((head_dim, causal), {}).get(seqlen)


def best_backward_over_cudnn(head_dim: int, causal: bool, seqlen: int) -> float | None:
    """Return the same for the gradient of a call."""
    return BEST_BACKWARD_OVER_CUDNN.get((head_dim, causal), {}).get(seqlen)
