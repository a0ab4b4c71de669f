#include "nn_columns.h"

#if NN_MVE
/* Two outputs. */
static void multiply(const uint32_t *weights, const nn_column *column, int32_t words, int32_t *sums)
{
    const int8_t *from = (const int8_t *)weights;
    int32_t a = sums[0], b = sums[1], rest = 2 * words;
    for (; rest >= 16; rest -= 16, from += 32, column += 16) {
        const int8x16x2_t pair = vld2q_s8(from);
        const int8x16_t x = vldrbq_s8(column);
        a = vmladavaq_s8(a, pair.val[0], x);
        b = vmladavaq_s8(b, pair.val[1], x);
    }
    if (rest > 0) {
        const mve_pred16_t lanes = vctp8q((uint32_t)rest);
        const uint8x16_t even = vidupq_n_u8(0, 2);
        const int8x16_t x = vldrbq_z_s8(column, lanes);
        a = vmladavaq_s8(a, vldrbq_gather_offset_z_s8(from, even, lanes), x);
        b = vmladavaq_s8(b, vldrbq_gather_offset_z_s8(from + 1, even, lanes), x);
    }
    sums[0] = a, sums[1] = b;
}
#else
/* One output and the next, of two taps in lanes. */
static inline void add_taps(uint32_t packed, uint32_t taps, int32_t *a, int32_t *b)
{
    *a = nn_dot(nn_even_bytes(packed), taps, *a);
    *b = nn_dot(nn_odd_bytes(packed), taps, *b);
}

static void multiply(const uint32_t *weights, const nn_column *column, int32_t words, int32_t *sums)
{
    int32_t a = sums[0], b = sums[1];
    for (const uint32_t *end = weights + words; weights != end; weights += 2, column += 2) {
        add_taps(weights[0], column[0], &a, &b);
        add_taps(weights[1], column[1], &a, &b);
    }
    sums[0] = a, sums[1] = b;
}

/* Four outputs: the pair after this one begins `words` further on. */
static NN_ALL_REGISTERS void multiply_fours(const uint32_t *weights, const nn_column *column, int32_t words,
                                            int32_t *sums)
{
    int32_t a = sums[0], b = sums[1], c = sums[2], d = sums[3];
    const uint32_t *next = weights + words;
    for (const uint32_t *const end = next; weights != end; weights += 2, next += 2, column += 2) {
        const uint32_t first = column[0], second = column[1];
        add_taps(weights[0], first, &a, &b);
        add_taps(weights[1], second, &a, &b);
        add_taps(next[0], first, &c, &d);
        add_taps(next[1], second, &c, &d);
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}
#endif

void nn_fully_connected_packed(const nn_packed_fully_connected_params *p, const int8_t *input, int8_t *output,
                               void *scratch)
{
    nn_column *const column = (nn_column *)scratch;
    for (int32_t batch = 0; batch < p->batches; batch++, input += p->in) {
        int8_t rest[4] = {0, 0, 0, 0};
        nn_column *const last = nn_spread(column, 1, input, p->in / 4 * 4);
        if (p->in % 4 != 0) {
            memcpy(rest, input + p->in / 4 * 4, (size_t)(p->in % 4));
            nn_spread(last, 1, rest, 4);
        }
        const uint32_t *weights = p->weights;
        for (int32_t c = 0, step; c < p->out; c += step, weights += step / 2 * p->words) {
            int32_t sums[4] = {p->bias[c], p->bias[c + 1], 0, 0};
#if NN_MVE
            step = 2;
            multiply(weights, column, p->words, sums);
#else
            step = c + 4 <= p->out ? 4 : 2;
            if (step == 4) {
                sums[2] = p->bias[c + 2], sums[3] = p->bias[c + 3];
                multiply_fours(weights, column, p->words, sums);
            } else {
                multiply(weights, column, p->words, sums);
            }
#endif
            for (int32_t k = c; k < nn_smaller(c + step, p->out); k++) {
                const int32_t value = nn_requantize_packed(sums[k - c], p->multiplier[k], p->halvings[k]);
                *output++ = nn_clamp(value + p->output_offset, p->activation_min, p->activation_max);
            }
        }
    }
}
