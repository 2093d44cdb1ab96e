/* The C ABI of flash-attn3: no torch, no CUDA toolkit, no exceptions. This header has what operators share;
 * each operator has a header of its own in `ops/`.
 *
 * Every function returns an fa3_status. On failure it writes one sentence to `error` (always NUL-terminated,
 * cut at `error_size`): the argument, what it got and what it should be. All functions may be called from any
 * thread.
 *
 * Structures begin with `struct_size`, the caller's sizeof, so that fields can be appended. A smaller
 * structure of an older caller is accepted, and its missing fields are 0. A larger one is accepted when the
 * surplus is 0 throughout. The structures inside another one never change. */
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

typedef enum fa3_dtype { FA3_FP16 = 0, FA3_BF16 = 1, FA3_FP32 = 2 } fa3_dtype;

/* A 4-D tensor in device memory, in (batch, seqlen, heads, head_dim) order; strides in elements.
 * Packed sequences (cu_seqlens) have batch 1: (1, total, heads, head_dim).
 * Pages are (pages, page_size, heads, head_dim). */
typedef struct fa3_tensor {
    void* data;
    int64_t shape[4];
    int64_t stride[4];
    int32_t dtype; /* fa3_dtype */
} fa3_tensor;

/* Where the sequences of a call begin and how long they are. The arrays lie in device memory and are not read
 * here. */
typedef struct fa3_sequences {
    const int32_t*
        cu_seqlens_q; /* (batch + 1,) first rows of packed sequences, and the end; null: not packed */
    const int32_t* cu_seqlens_k;
    const int32_t* seqused_q; /* (batch,) rows in use; null: all */
    const int32_t* seqused_k;
    const int32_t* page_table; /* (batch, columns) pages of each sequence; needs seqused_k; null: no pages */
    int64_t page_table_stride; /* elements from one sequence to the next */
    int32_t batch;             /* number of sequences */
    int32_t max_seqlen_q;      /* with cu_seqlens_q: of the longest sequence */
    int32_t max_seqlen_k;      /* with cu_seqlens_k: likewise; with page_table: columns * page_size */
} fa3_sequences;

/* Which keys a query sees, aligned bottom right: the last query lies at the last key. */
typedef struct fa3_mask {
    int32_t causal;      /* 0 or 1; 1 sets window_right to 0 */
    int32_t window_left; /* visible keys before and after the diagonal; negative: all */
    int32_t window_right;
    int32_t attention_chunk; /* a query sees only the keys of its own chunk of this many positions; 0: no
                                chunks */
} fa3_mask;

typedef struct fa3_scale {
    float softmax_scale;
    float softcap; /* scores become softcap * tanh(score / softcap); 0: no softcap */
} fa3_scale;

/* Format of a kernel's image, and so the GPUs that it runs on. */
typedef enum fa3_code {
    FA3_EXACT = 0,    /* a cubin for one SM, with instructions of this SM alone */
    FA3_PORTABLE = 1, /* a cubin for an SM and the later ones of its major number */
    FA3_PTX = 2       /* for an SM and every later one; the driver compiles it at first use */
} fa3_code;

/* One kernel of the pack. Strings end with NUL. */
typedef struct fa3_kernel_info {
    uint32_t struct_size;
    int32_t sm; /* 90 for sm_90a */
    char name[64];
    char op[16];
    char mask[16]; /* "full", "causal", "local", or "any" of them */
    char toolkit[16];
    int32_t code;       /* fa3_code */
    int32_t dtype_in;   /* fa3_dtype */
    int32_t dtype_out;  /* fa3_dtype; 255: any */
    int32_t head_dim;   /* the largest that it takes; 0: it has none */
    int32_t head_dim_v; /* the same of v */
} fa3_kernel_info;

/* Version of this library, for example "0.1.0". Never fails, needs no GPU. */
FA3_API const char* fa3_version(void);

/* Names the kernel pack; without this call it is `kernels.fa3pack` beside this library. A pack that was in
 * use before keeps its loaded kernels unless its file was altered, so packs can be switched between calls. */
FA3_API fa3_status fa3_set_pack(const char* path, char* error, size_t error_size);

/* Kernels in the pack. Needs no GPU and no driver. */
FA3_API fa3_status fa3_kernel_count(int32_t* count, char* error, size_t error_size);
FA3_API fa3_status fa3_kernel_at(int32_t index, fa3_kernel_info* info, char* error, size_t error_size);

/* Restricts the choice, in the whole process, to kernels of these codes (a sum of 1 << fa3_code), and treats
 * query sequences as no shorter than seqlen_q. Defaults: 7, all codes, and 0. For tests of kernels that a
 * better one hides, and of kernels for long sequences on short ones. */
FA3_API fa3_status fa3_allow_kernels(uint32_t codes, int32_t seqlen_q, char* error, size_t error_size);

/* Driver version as CUDA reports it (13000 for 13.0) and device count. */
FA3_API fa3_status fa3_driver(int32_t* version, int32_t* devices, char* error, size_t error_size);

/* FA3_OK when the pack holds a kernel of the operator `op` (null: of any) for this device; FA3_UNSUPPORTED,
 * with the contents of the pack, when not. */
FA3_API fa3_status fa3_device_supported(int32_t device, const char* op, char* error, size_t error_size);

/* FA3_OK when the tensor copy engine can read this layout (unit last stride, 16-byte aligned base and
 * strides); FA3_INVALID_ARGUMENT, with `argument` and the stride, when the caller must copy it first. With
 * seqused, q and out also need a batch stride that is a multiple of the seqlen stride. */
FA3_API fa3_status fa3_check_layout(const fa3_tensor* tensor, const char* argument, char* error,
                                    size_t error_size);

#ifdef __cplusplus
}
#endif
#endif /* FLASH_ATTN3_H */
