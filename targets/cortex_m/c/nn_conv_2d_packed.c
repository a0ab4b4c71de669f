#include "nn_columns.h"

/* Copies a patch byte by byte, `outside` where it leaves the image; the last bytes up to a multiple of four are free. */
static void gather(const nn_packed_conv_params *p, const int8_t *input, int32_t top, int32_t left, int8_t *patch)
{
    for (int32_t row = 0; row < p->kernel_h; row++) {
        const int32_t y = top + row * p->dilation_h;
        for (int32_t tap = 0; tap < p->kernel_w; tap++) {
            const int32_t x = left + tap * p->dilation_w;
            const int inside = y >= 0 && y < p->in_h && x >= 0 && x < p->in_w;
            const int32_t from = inside ? (y * p->in_w + x) * p->in_c : 0;
            for (int32_t c = 0; c < p->in_c; c++) {
                *patch++ = inside ? input[from + c] : (int8_t)p->outside;
            }
        }
    }
}

/* The same straight into a column, for channels in fours. */
static void gather_fours(const nn_packed_conv_params *p, const int8_t *input, int32_t top, int32_t left,
                         nn_column *column)
{
    for (int32_t row = 0; row < p->kernel_h; row++) {
        const int32_t y = top + row * p->dilation_h;
        const int row_inside = y >= 0 && y < p->in_h;
        if (row_inside && p->dilation_w == 1 && left >= 0 && left + p->kernel_w <= p->in_w) { /* one piece of memory */
            column = nn_spread(column, NN_PIXELS, input + (y * p->in_w + left) * p->in_c, p->kernel_w * p->in_c);
            continue;
        }
        for (int32_t tap = 0; tap < p->kernel_w; tap++) {
            const int32_t x = left + tap * p->dilation_w;
            if (row_inside && x >= 0 && x < p->in_w) {
                column = nn_spread(column, NN_PIXELS, input + (y * p->in_w + x) * p->in_c, p->in_c);
            } else {
                column = nn_fill(column, NN_PIXELS, p->outside, p->in_c);
            }
        }
    }
}

#if NN_MVE
/* Four pixels of one channel. */
static inline void store(int32x4_t sums, const nn_packed_conv_params *p, int32_t channel, int8_t *output,
                         mve_pred16_t pixels)
{
    const int32x4_t code = nn_requantize_packed_lanes(sums, vdupq_n_s32(p->multiplier[channel]),
                                                      vdupq_n_s32(p->halvings[channel]));
    const int32x4_t kept = nn_clamp_lanes(vaddq_n_s32(code, p->output_offset), p->activation_min, p->activation_max);
    vstrbq_scatter_offset_p_s32(output, vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)p->out_c), kept, pixels);
}

/* All channels of up to four pixels whose columns are filled. */
static void finish(const nn_packed_conv_params *p, const nn_column *columns, int32_t pixels, int8_t *output)
{
    const int8_t *weights = (const int8_t *)p->weights;
    const int32_t taps = 2 * p->words, rest = taps % 16;
    const mve_pred16_t lanes = vctp8q((uint32_t)rest), stored = vctp32q((uint32_t)pixels);
    const uint8x16_t even = vidupq_n_u8(0, 2);
    for (int32_t c = 0; c < p->out_c; c += 2) {
        int32_t a0 = p->bias[c], a1 = a0, a2 = a0, a3 = a0;
        int32_t b0 = p->bias[c + 1], b1 = b0, b2 = b0, b3 = b0;
        const nn_column *x0 = columns, *x1 = x0 + taps, *x2 = x1 + taps, *x3 = x2 + taps;
        for (int32_t blocks = taps / 16; blocks > 0; blocks--, weights += 32, x0 += 16, x1 += 16, x2 += 16, x3 += 16) {
            const int8x16x2_t w = vld2q_s8(weights);
            int8x16_t x = vldrbq_s8(x0);
            a0 = vmladavaq_s8(a0, w.val[0], x);
            b0 = vmladavaq_s8(b0, w.val[1], x);
            x = vldrbq_s8(x1);
            a1 = vmladavaq_s8(a1, w.val[0], x);
            b1 = vmladavaq_s8(b1, w.val[1], x);
            x = vldrbq_s8(x2);
            a2 = vmladavaq_s8(a2, w.val[0], x);
            b2 = vmladavaq_s8(b2, w.val[1], x);
            x = vldrbq_s8(x3);
            a3 = vmladavaq_s8(a3, w.val[0], x);
            b3 = vmladavaq_s8(b3, w.val[1], x);
        }
        if (rest > 0) {
            const int8x16_t wa = vldrbq_gather_offset_z_s8(weights, even, lanes);
            const int8x16_t wb = vldrbq_gather_offset_z_s8(weights + 1, even, lanes);
            int8x16_t x = vldrbq_z_s8(x0, lanes);
            a0 = vmladavaq_s8(a0, wa, x);
            b0 = vmladavaq_s8(b0, wb, x);
            x = vldrbq_z_s8(x1, lanes);
            a1 = vmladavaq_s8(a1, wa, x);
            b1 = vmladavaq_s8(b1, wb, x);
            x = vldrbq_z_s8(x2, lanes);
            a2 = vmladavaq_s8(a2, wa, x);
            b2 = vmladavaq_s8(b2, wb, x);
            x = vldrbq_z_s8(x3, lanes);
            a3 = vmladavaq_s8(a3, wa, x);
            b3 = vmladavaq_s8(b3, wb, x);
            weights += 2 * rest;
        }
        store((int32x4_t){a0, a1, a2, a3}, p, c, output + c, stored);
        if (c + 1 < p->out_c) {
            store((int32x4_t){b0, b1, b2, b3}, p, c + 1, output + c + 1, stored);
        }
    }
}
#else
/* Sums of two channels of four pixels. */
typedef struct {
    int32_t a0, a1, a2, a3, b0, b1, b2, b3;
} block;

static inline block add_taps(block sum, uint32_t packed, const uint32_t *column)
{
    const uint32_t a = nn_even_bytes(packed), b = nn_odd_bytes(packed);
    uint32_t x = column[0];
    sum.a0 = nn_dot(a, x, sum.a0);
    sum.b0 = nn_dot(b, x, sum.b0);
    x = column[1];
    sum.a1 = nn_dot(a, x, sum.a1);
    sum.b1 = nn_dot(b, x, sum.b1);
    x = column[2];
    sum.a2 = nn_dot(a, x, sum.a2);
    sum.b2 = nn_dot(b, x, sum.b2);
    x = column[3];
    sum.a3 = nn_dot(a, x, sum.a3);
    sum.b3 = nn_dot(b, x, sum.b3);
    return sum;
}

static NN_ALL_REGISTERS void multiply(const uint32_t *weights, const uint32_t *column, int32_t words,
                                      const int32_t *bias, block *result)
{
    block sum = {bias[0], bias[0], bias[0], bias[0], bias[1], bias[1], bias[1], bias[1]};
    for (const uint32_t *const end = weights + words; weights != end; weights += 2, column += 2 * NN_PIXELS) {
        sum = add_taps(sum, weights[0], column);
        sum = add_taps(sum, weights[1], column + NN_PIXELS);
    }
    *result = sum;
}

/* One channel of up to four pixels, `step` bytes apart. */
static inline void store(const int32_t *sum, int32_t pixels, const nn_packed_conv_params *p, int32_t channel,
                         int8_t *output, int32_t step)
{
    const int32_t multiplier = p->multiplier[channel], halvings = p->halvings[channel];
    const int32_t offset = p->output_offset, low = p->activation_min, high = p->activation_max;
    if (halvings < 0) {
        for (; pixels > 0; pixels--, output += step) {
            *output = nn_clamp(nn_requantize_packed(*sum++, multiplier, halvings) + offset, low, high);
        }
        return;
    }
    for (; pixels > 0; pixels--, output += step) {
        *output = nn_clamp(nn_requantize_down(*sum++, multiplier, halvings) + offset, low, high);
    }
}

/* All channels of up to four pixels whose columns are filled. */
static void finish(const nn_packed_conv_params *p, const nn_column *columns, int32_t pixels, int8_t *output)
{
    const uint32_t *weights = p->weights;
    const int32_t channels = p->out_c;
    for (int32_t c = 0; c < channels; c += 2, weights += p->words) {
        block sums;
        multiply(weights, columns, p->words, p->bias + c, &sums);
        store(&sums.a0, pixels, p, c, output + c, channels);
        if (c + 1 < channels) {
            store(&sums.b0, pixels, p, c + 1, output + c + 1, channels);
        }
    }
}
#endif

void nn_conv_2d_packed(const nn_packed_conv_params *p, const int8_t *input, int8_t *output, void *scratch)
{
    nn_column *const columns = (nn_column *)scratch;
    int8_t *const patch = (int8_t *)((uint32_t *)scratch + NN_PIXELS * p->words);
    int32_t filled = 0; /* what no pixel fills is multiplied and not stored */
    for (int32_t batch = 0; batch < p->batches; batch++, input += p->in_h * p->in_w * p->in_c) {
        for (int32_t y = 0; y < p->out_h; y++) {
            for (int32_t x = 0; x < p->out_w; x++) {
                const int32_t top = y * p->stride_h - p->pad_h, left = x * p->stride_w - p->pad_w;
                nn_column *const column = nn_column_of(columns, filled, p->words);
                if (p->in_c % 4 == 0) {
                    gather_fours(p, input, top, left, column);
                } else {
                    gather(p, input, top, left, patch);
                    nn_spread(column, NN_PIXELS, patch, 2 * p->words);
                }
                if (++filled == NN_PIXELS) {
                    finish(p, columns, filled, output);
                    output += filled * p->out_c;
                    filled = 0;
                }
            }
        }
    }
    if (filled > 0) {
        finish(p, columns, filled, output);
    }
}
