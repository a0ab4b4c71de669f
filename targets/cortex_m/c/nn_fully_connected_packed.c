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
static void multiply(const uint32_t *weights, const nn_column *column, int32_t words, int32_t *sums)
{
    int32_t a = sums[0], b = sums[1];
    for (const uint32_t *end = weights + words; weights != end; weights += 2, column += 2) {
        a = nn_dot(nn_even_bytes(weights[0]), column[0], a);
        b = nn_dot(nn_odd_bytes(weights[0]), column[0], b);
        a = nn_dot(nn_even_bytes(weights[1]), column[1], a);
        b = nn_dot(nn_odd_bytes(weights[1]), column[1], b);
    }
    sums[0] = a, sums[1] = b;
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
        for (int32_t c = 0; c < p->out; c += 2, weights += p->words) {
            int32_t sums[2] = {p->bias[c], p->bias[c + 1]};
            multiply(weights, column, p->words, sums);
            for (int32_t k = c; k < nn_smaller(c + 2, p->out); k++) {
                const int32_t value = nn_requantize_packed(sums[k - c], p->multiplier[k], p->halvings[k]);
                *output++ = nn_clamp(value + p->output_offset, p->activation_min, p->activation_max);
            }
        }
    }
}
