/* The ops that are not matmuls, as avx2; see ops.inc. */
#define OPS_BODY llmq_body_avx2_ops
#include "isa/ops.inc"
