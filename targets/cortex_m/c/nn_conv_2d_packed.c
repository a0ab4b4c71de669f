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
                         uint32_t *column)
{
    const uint32_t outside = (uint16_t)p->outside | (uint32_t)(uint16_t)p->outside << 16;
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
                continue;
            }
            for (int32_t words = p->in_c / 2; words > 0; words--, column += NN_PIXELS) {
                *column = outside;
            }
        }
    }
}

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
static void finish(const nn_packed_conv_params *p, const uint32_t *columns, int32_t pixels, int8_t *output)
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

void nn_conv_2d_packed(const nn_packed_conv_params *p, const int8_t *input, int8_t *output, void *scratch)
{
    uint32_t *const columns = (uint32_t *)scratch;
    int8_t *const patch = (int8_t *)(columns + NN_PIXELS * p->words);
    int32_t filled = 0;
    memset(scratch, 0, (size_t)p->scratch_bytes); /* what no pixel fills is still multiplied */
    for (int32_t batch = 0; batch < p->batches; batch++, input += p->in_h * p->in_w * p->in_c) {
        for (int32_t y = 0; y < p->out_h; y++) {
            for (int32_t x = 0; x < p->out_w; x++) {
                const int32_t top = y * p->stride_h - p->pad_h, left = x * p->stride_w - p->pad_w;
                if (p->in_c % 4 == 0) {
                    gather_fours(p, input, top, left, columns + filled);
                } else {
                    gather(p, input, top, left, patch);
                    nn_spread(columns + filled, NN_PIXELS, patch, 2 * p->words);
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
