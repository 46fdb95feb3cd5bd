/* The ops that are not matmuls, as avx512; see ops.inc. */
#define OPS_BODY llmq_body_avx512_ops
#include "isa/ops.inc"
