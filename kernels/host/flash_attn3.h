/* The C ABI of flash-attn3: torch-free, toolkit-free, exception-free.
 *
 * Every function returns an fa3_status and, when that is not FA3_OK, writes one sentence to `error`
 * (always NUL-terminated, cut at `error_size`): it names the argument, what it got and what it should be.
 * All functions may be called from any thread. */
#ifndef FLASH_ATTN3_H
#define FLASH_ATTN3_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define FA3_API __declspec(dllexport)
#else
#define FA3_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fa3_status {
    FA3_OK = 0,
    FA3_INVALID_ARGUMENT = 1, /* a dtype, shape, stride or value that no kernel could take */
    FA3_UNSUPPORTED = 2,      /* valid, but this build holds no kernel for it (or for this GPU) */
    FA3_NO_DRIVER = 3,        /* no CUDA driver, or one too old */
    FA3_BAD_PACK = 4,         /* the kernel pack is missing, truncated or altered */
    FA3_DRIVER_ERROR = 5      /* a driver call failed */
} fa3_status;

typedef enum fa3_dtype { FA3_FP16 = 0, FA3_BF16 = 1, FA3_FP32 = 2 /* of fa3_combine only */ } fa3_dtype;

/* A 4-D tensor in device memory, in (batch, seqlen, heads, head_dim) order; strides in elements.
 * Sequences packed one after another (cu_seqlens) are one of batch 1: (1, total, heads, head_dim).
 * Pages are (pages, page_size, heads, head_dim). */
typedef struct fa3_tensor {
    void* data;
    int64_t shape[4];
    int64_t stride[4];
} fa3_tensor;

typedef struct fa3_fwd_args {
    uint32_t struct_size; /* sizeof(fa3_fwd_args), so that the structure can grow */
    int32_t device;       /* CUDA device ordinal */
    int32_t dtype;        /* fa3_dtype of q, k, v and out */
    int32_t causal;       /* 0 or 1; bottom-right aligned; 1 makes window_right 0 */
    float softmax_scale;
    int32_t sm_margin; /* multiprocessors to leave free */
    void* stream;      /* CUstream */
    fa3_tensor q;
    fa3_tensor k;
    fa3_tensor v;
    fa3_tensor out; /* a row is written up to the next multiple of 8 elements, where its stride begins */
    float* lse;          /* (batch, heads_q, seqlen_q), or (heads_q, total_q) with cu_seqlens_q; contiguous */
    int32_t window_left; /* keys before and after the diagonal that a query sees; negative: all */
    int32_t window_right;
    int32_t attention_chunk; /* queries see only keys of their own chunk of so many positions; 0: no chunks */
    float softcap;           /* scores become softcap * tanh(score / softcap); 0: no softcap */
    const float* sink;       /* (heads_q,) logits that join the softmax denominator; null: none */
    const int32_t*
        cu_seqlens_q; /* (batch + 1,) first rows of packed sequences, and the end; null: not packed */
    const int32_t* cu_seqlens_k;
    const int32_t* seqused_q; /* (batch,) rows that count; null: all */
    const int32_t* seqused_k;
    const int32_t* page_table; /* (batch, columns) pages of each sequence; needs seqused_k; null: no pages */
    int64_t page_table_stride; /* elements from one sequence's row to the next */
    int32_t batch;             /* number of sequences */
    int32_t max_seqlen_q;      /* with cu_seqlens_q: of the longest sequence */
    int32_t max_seqlen_k;      /* with cu_seqlens_k: likewise; with page_table: columns * page_size */
} fa3_fwd_args;

typedef struct fa3_combine_args {
    uint32_t struct_size;          /* sizeof(fa3_combine_args), so that the structure can grow */
    int32_t device;                /* CUDA device ordinal */
    int32_t splits;                /* parts to join, 1 to 256 */
    int32_t out_dtype;             /* fa3_dtype of out */
    void* stream;                  /* CUstream */
    fa3_tensor out_partial;        /* of the first part, fp32 */
    int64_t out_partial_stride;    /* elements from one part to the next */
    const float* lse_partial;      /* (splits, batch, heads, seqlen), seqlen contiguous */
    int64_t lse_partial_stride[3]; /* elements from one part, batch and head to the next */
    fa3_tensor out;
    float* lse; /* (batch, heads, seqlen), contiguous */
} fa3_combine_args;

/* What a kernel's bytes are, and so where it runs. */
typedef enum fa3_code {
    FA3_EXACT = 0,    /* a cubin for one SM, with instructions that only this one has */
    FA3_PORTABLE = 1, /* a cubin for an SM and the later ones of its major number */
    FA3_PTX = 2       /* for an SM and every later one; the driver compiles it at first use */
} fa3_code;

/* One kernel of the pack. */
typedef struct fa3_kernel_info {
    char name[64];
    char op[16];
    char mask[16]; /* "full", "causal", "local", or "any" of them */
    char toolkit[16];
    int32_t sm; /* 90 for sm_90a */
    int32_t dtype;
    int32_t head_dim;
    int32_t head_dim_v;
    int32_t code;         /* fa3_code */
    int32_t min_seqlen_q; /* serves query sequences of at least this length */
} fa3_kernel_info;

/* Version of this library, for example "0.1.0". Never fails, needs no GPU. */
FA3_API const char* fa3_version(void);

/* Names the kernel pack; without this call it is `kernels.fa3pack` beside this library. A pack that was in
 * use before keeps its loaded kernels unless its file was altered, so packs can be switched between calls. */
FA3_API fa3_status fa3_set_pack(const char* path, char* error, size_t error_size);

/* Kernels in the pack. Needs no GPU and no driver. */
FA3_API fa3_status fa3_kernel_count(int32_t* count, char* error, size_t error_size);
FA3_API fa3_status fa3_kernel_at(int32_t index, fa3_kernel_info* info, char* error, size_t error_size);

/* Lets only kernels of these codes be chosen, a sum of 1 << fa3_code, and as if no query sequence were shorter
 * than seqlen_q, in the whole process. It is 7, all of them, and 0 until changed; otherwise, kernels can be
 * tested that a better one would hide, and those for long sequences with short ones. */
FA3_API fa3_status fa3_allow_kernels(uint32_t codes, int32_t seqlen_q, char* error, size_t error_size);

/* Driver version as CUDA reports it (13000 for 13.0) and device count. */
FA3_API fa3_status fa3_driver(int32_t* version, int32_t* devices, char* error, size_t error_size);

/* FA3_OK when the pack holds a kernel for this device; FA3_UNSUPPORTED, naming what it holds, when not. */
FA3_API fa3_status fa3_device_supported(int32_t device, char* error, size_t error_size);

/* FA3_OK when the tensor copy engine can read this layout (unit last stride, 16-byte aligned base and
 * strides); FA3_INVALID_ARGUMENT, naming `argument` and the stride, when the caller must copy it first. With
 * seqused or pages fa3_fwd asks besides that the batch stride is a multiple of the seqlen stride. */
FA3_API fa3_status fa3_check_layout(const fa3_tensor* tensor, const char* argument, char* error,
                                    size_t error_size);

/* Enqueues attention forward on args->stream; returns at once. Shapes are checked here; what lies in device
 * memory (cu_seqlens, seqused, page_table) is not. q (b, sq, h, d), k (b, sk, h_k, d), v (b, sk, h_k, dv),
 * out (b, sq, h, dv); h % h_k == 0. */
FA3_API fa3_status fa3_fwd(const fa3_fwd_args* args, char* error, size_t error_size);

/* Enqueues the join of what attention over parts of the keys gave: out is the mean of the parts' outputs,
 * weighted by exp(lse_partial), and lse the logarithm of the weights' sum. Where every lse_partial of a row
 * is -inf, out is 0 and lse -inf. out_partial and out (b, s, h, dv), dv at most 512, with unit last strides.
 */
FA3_API fa3_status fa3_combine(const fa3_combine_args* args, char* error, size_t error_size);

#ifdef __cplusplus
}
#endif
#endif /* FLASH_ATTN3_H */
