/* The join of attention over parts of the keys. */
#ifndef FLASH_ATTN3_COMBINE_H
#define FLASH_ATTN3_COMBINE_H

#include "flash_attn3.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fa3_combine_args {
    uint32_t struct_size;
    int32_t device;             /* CUDA device ordinal */
    void* stream;               /* CUstream */
    fa3_tensor out_partial;     /* (b, s, h, dv) of the first part, fp32; dv at most 512, unit last stride */
    int64_t out_partial_stride; /* elements from one part to the next */
    const float* lse_partial;   /* (splits, b, h, s), s contiguous */
    int64_t lse_partial_stride[3]; /* elements from one part, batch and head to the next */
    fa3_tensor out;                /* (b, s, h, dv), fp16, bf16 or fp32; unit last stride */
    float* lse;                    /* (b, h, s), contiguous */
    int32_t splits;                /* parts, 1 to 256 */
} fa3_combine_args;

/* Enqueues the join on args->stream and returns. `out` is the mean of the parts' outputs, weighted by
 * exp(lse_partial), and `lse` the logarithm of the sum of the weights. Where every lse_partial of a row is
 * -inf, out is 0 and lse -inf. */
FA3_API fa3_status fa3_combine(const fa3_combine_args* args, char* error, size_t error_size);

/* The kernel that fa3_combine would launch; an empty name when there is nothing to compute. Launches nothing.
 */
FA3_API fa3_status fa3_combine_kernel(const fa3_combine_args* args, fa3_kernel_info* info, char* error,
                                      size_t error_size);

#ifdef __cplusplus
}
#endif
#endif /* FLASH_ATTN3_COMBINE_H */
