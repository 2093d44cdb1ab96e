/* Attention forward. */
#ifndef FLASH_ATTN3_FWD_H
#define FLASH_ATTN3_FWD_H

#include "flash_attn3.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fa3_fwd_args {
    uint32_t struct_size;
    int32_t device;    /* CUDA device ordinal */
    void* stream;      /* CUstream */
    fa3_tensor q;      /* (b, sq, h, d), fp16 or bf16 */
    fa3_tensor k;      /* (b, sk, h_k, d); h % h_k == 0 */
    fa3_tensor v;      /* (b, sk, h_k, dv) */
    fa3_tensor out;    /* (b, sq, h, dv); a row is written up to the next multiple of 8 elements, where its
                          stride begins */
    float* lse;        /* (b, h, sq), or (h, total_q) with cu_seqlens_q; contiguous */
    const float* sink; /* (h,) logits that join the softmax denominator; null: none */
    fa3_sequences sequences;
    fa3_mask mask;
    fa3_scale scale;
    int32_t sm_margin; /* multiprocessors to leave free */
    void* workspace;   /* device memory; null: the keys of a sequence are not divided among thread blocks */
    size_t workspace_size;
} fa3_fwd_args;

/* Enqueues attention forward on args->stream and returns. Shapes are checked; arrays in device memory are
 * not. */
FA3_API fa3_status fa3_fwd(const fa3_fwd_args* args, char* error, size_t error_size);

/* The bytes of the workspace with which few query rows over many keys are computed faster; 0: none. The
 * caller allocates it and may free it once the call's work on the stream is done. */
FA3_API fa3_status fa3_fwd_workspace(const fa3_fwd_args* args, size_t* size, char* error, size_t error_size);

/* The kernel that fa3_fwd would launch; an empty name when there is nothing to compute. Launches nothing. */
FA3_API fa3_status fa3_fwd_kernel(const fa3_fwd_args* args, fa3_kernel_info* info, char* error,
                                  size_t error_size);

#ifdef __cplusplus
}
#endif
#endif /* FLASH_ATTN3_FWD_H */
