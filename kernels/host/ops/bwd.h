/* Attention backward. */
#ifndef FLASH_ATTN3_BWD_H
#define FLASH_ATTN3_BWD_H

#include "flash_attn3.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fa3_bwd_args {
    uint32_t struct_size;
    int32_t device;    /* CUDA device ordinal */
    void* stream;      /* CUstream */
    fa3_tensor q;      /* as in fa3_fwd_args, and so are k, v, out, lse and sink */
    fa3_tensor k;
    fa3_tensor v;
    fa3_tensor out;
    fa3_tensor dout;   /* gradient of out; its shape */
    fa3_tensor dq;     /* gradient of q, and so on. Rows that no sequence uses become 0 */
    fa3_tensor dk;
    fa3_tensor dv;
    const float* lse;
    const float* dlse; /* gradient of lse; its shape, contiguous; null: 0 */
    const float* sink;
    float* dsink;      /* (h,), with sink */
    void* workspace;   /* device memory of fa3_bwd_workspace bytes, 128-byte aligned; any content */
    size_t workspace_size;
    fa3_sequences sequences; /* no pages */
    fa3_mask mask;
    fa3_scale scale;
    int32_t deterministic; /* 1: the same bits every time; 0: additions to dq in any order */
    int32_t sm_margin;     /* multiprocessors to leave free; portable kernels ignore it */
} fa3_bwd_args;

/* Enqueues attention backward on args->stream and returns. Shapes are checked; arrays in device memory are
 * not. */
FA3_API fa3_status fa3_bwd(const fa3_bwd_args* args, char* error, size_t error_size);

/* Bytes of workspace that fa3_bwd needs for these arguments. Reads no address. */
FA3_API fa3_status fa3_bwd_workspace(const fa3_bwd_args* args, size_t* size, char* error, size_t error_size);

/* The kernel of one launch of fa3_bwd: 0, 1, 2 or 3, of which 1 does most of the work, and 2 computes dq where 1
 * does not; an empty name when there is nothing to compute. Launches nothing. */
FA3_API fa3_status fa3_bwd_kernel(const fa3_bwd_args* args, uint32_t launch, fa3_kernel_info* info, char* error,
                                  size_t error_size);

#ifdef __cplusplus
}
#endif
#endif /* FLASH_ATTN3_BWD_H */
