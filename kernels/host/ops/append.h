/* New rows for a cache of keys and values, and rotary position embeddings. */
#ifndef FLASH_ATTN3_APPEND_H
#define FLASH_ATTN3_APPEND_H

#include "flash_attn3.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Tables of cosines and sines, (positions, columns / 2), of the dtype of k. */
typedef struct fa3_rotary {
    const void* cosines; /* null: no rotation */
    const void* sines;
    int64_t stride_cosines; /* elements from one position to the next */
    int64_t stride_sines;
    const int32_t* first_positions; /* (batch,) of the first new row; null: cache_seqlens */
    int32_t positions;
    int32_t columns;     /* first columns of a head that are rotated; even */
    int32_t interleaved; /* 1: columns 2i and 2i + 1 are a pair; 0: i and i + columns / 2 */
    int32_t q_advances;  /* 1: row i of q is at the first position + i; 0: every row is at the first */
} fa3_rotary;

typedef struct fa3_append_args {
    uint32_t struct_size;
    int32_t device;      /* CUDA device ordinal */
    void* stream;        /* CUstream */
    fa3_tensor k_cache;  /* (entries, rows, h_k, d), or pages; fp16 or bf16; unit last stride, as all tensors */
    fa3_tensor v_cache;  /* the same with dv */
    fa3_tensor k;        /* (b, s, h_k, d), or (1, total, h_k, d) with cu_seqlens_new */
    fa3_tensor v;        /* the same with dv */
    fa3_tensor q;        /* (b, sq, h, d), or (1, total, h, d) with cu_seqlens_q; data null: none */
    fa3_tensor q_out;    /* the rotated q */
    int32_t* seqlens;    /* (batch,) written: rows in use afterwards */
    const int32_t* cache_seqlens;   /* (batch,) rows in use before */
    const int32_t* cache_batch_idx; /* (batch,) entry of the cache of each sequence; null: its number */
    const int32_t* page_table;      /* (batch, columns) null: no pages */
    int64_t page_table_stride;      /* elements from one sequence to the next */
    const int32_t* cu_seqlens_new;  /* (batch + 1,) first rows of packed sequences, and the end; null: not packed */
    const int32_t* cu_seqlens_q;
    fa3_rotary rotary;
    int32_t batch;              /* number of sequences */
    int32_t page_table_columns;
} fa3_append_args;

/* Enqueues the append on args->stream and returns: row i of a sequence becomes row cache_seqlens + i of the
 * cache. Shapes are checked; arrays in device memory are not. A row for which the cache has no room, or whose
 * page or entry does not exist, is not written, and a row at a position outside of the tables is not rotated. */
FA3_API fa3_status fa3_append(const fa3_append_args* args, char* error, size_t error_size);

/* The kernel that fa3_append would launch; an empty name when there is no sequence. Launches nothing. */
FA3_API fa3_status fa3_append_kernel(const fa3_append_args* args, fa3_kernel_info* info, char* error,
                                     size_t error_size);

#ifdef __cplusplus
}
#endif
#endif /* FLASH_ATTN3_APPEND_H */
