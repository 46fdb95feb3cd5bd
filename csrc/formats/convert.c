/* convert.c: rows of one type to rows of another, with the error that this costs.
 *
 *     x = dequantize(src),  dst = quantize(x),  error = sum (x - dequantize(dst))^2,  square = sum x^2
 *
 * Row by row, so that a row stays in the cache and the memory needed is two rows of float32. Both sums are made of eight partial sums
 * (weight i goes to the (i mod 8)th) per row, added in a fixed order: the same rows give the same sums. */
#include "formats/codec.h"

static double sum8(const double part[8]) {
    return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

/* sum of (x - y)^2, or of x^2 when y is NULL */
static double squares(const float *x, const float *y, int64_t n) {
    double part[8] = {0};
    for (int64_t i = 0; i + 8 <= n; i += 8) {
        for (int j = 0; j < 8; j++) {
            const double d = (double)x[i + j] - (y != NULL ? (double)y[i + j] : 0.0);
            part[j] += d * d;
        }
    }
    for (int64_t i = n / 8 * 8; i < n; i++) {
        const double d = (double)x[i] - (y != NULL ? (double)y[i] : 0.0);
        part[i % 8] += d * d;
    }
    return sum8(part);
}

/* First NaN or infinity of x[0..n), or n. */
static int64_t first_nonfinite(const float *x, int64_t n) {
    int64_t i = 0;
    while (i < n && x[i] - x[i] == 0.0f) i++;
    return i;
}

llmq_status llmq_convert(const llmq_codec *from, const void *src, const llmq_codec *to, void *dst, int64_t rows, int64_t k,
                         const float *weight, float *scratch, llmq_conversion *out) {
    const uint8_t *s = src;
    uint8_t *d = dst;
    float *x = scratch, *y = scratch + k;
    out->error = out->square = 0.0;
    out->bad = -1;
    for (int64_t r = 0; r < rows; r++) {
        from->dequantize(s, x, k);
        const llmq_status status = to->quantize(x, d, k, weight);
        if (status == LLMQ_ERR_NONFINITE) {
            const int64_t i = first_nonfinite(x, k);
            if (i < k) out->bad = r * k + i; /* else an importance is to blame */
        }
        if (status != LLMQ_OK) return status;
        to->dequantize(d, y, k);
        out->error += squares(x, y, k);
        out->square += squares(x, NULL, k);
        s += k / from->block * from->bytes;
        d += k / to->block * to->bytes;
    }
    return LLMQ_OK;
}
