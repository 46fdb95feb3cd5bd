/* The ops that are not matmuls, as scalar; see ops.inc. */
#define OPS_BODY llmq_body_scalar_ops
#include "isa/ops.inc"
