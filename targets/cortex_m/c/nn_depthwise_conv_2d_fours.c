#include "nn_dsp.h"

/* Four channels of one pixel: the taps from `input` on, rows and taps apart by the given numbers of bytes. */
static void sum_taps(const int8_t *input, int32_t row_step, int32_t tap_step, const int8_t *weights, int32_t row_weights,
                     int32_t channels, int32_t rows, int32_t taps, uint32_t offset, int32_t *sums)
{
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    for (; rows > 0; rows--, input += row_step, weights += row_weights) {
        const int8_t *from = input;
        const int8_t *weight = weights;
        for (int32_t tap = taps; tap > 0; tap--, from += tap_step, weight += channels) {
            const uint32_t x = nn_four_bytes(from), w = nn_four_bytes(weight);
            const uint32_t x_even = nn_even_bytes_plus(offset, x), x_odd = nn_odd_bytes_plus(offset, x);
            const uint32_t w_even = nn_even_bytes(w), w_odd = nn_odd_bytes(w);
            s0 = nn_low_product(x_even, w_even, s0);
            s1 = nn_low_product(x_odd, w_odd, s1);
            s2 = nn_high_lanes_product(x_even, w_even, s2);
            s3 = nn_high_lanes_product(x_odd, w_odd, s3);
        }
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

void nn_depthwise_conv_2d_fours(const nn_conv_params *p, const int8_t *input, int8_t *output)
{
    const uint32_t offset = (uint16_t)p->input_offset | (uint32_t)(uint16_t)p->input_offset << 16;
    const int32_t channels = p->out_c, line = p->in_w * channels;
    for (int32_t batch = 0; batch < p->batches; batch++, input += p->in_h * line) {
        for (int32_t y = 0; y < p->out_h; y++) {
            const int32_t top = y * p->stride_h - p->pad_h;
            const int32_t row = nn_first_tap(top, p->dilation_h);
            const int32_t rows = nn_end_tap(top, p->dilation_h, p->kernel_h, p->in_h) - row;
            for (int32_t x = 0; x < p->out_w; x++) {
                const int32_t left = x * p->stride_w - p->pad_w;
                const int32_t tap = nn_first_tap(left, p->dilation_w);
                const int32_t taps = nn_end_tap(left, p->dilation_w, p->kernel_w, p->in_w) - tap;
                const int32_t from = (top + row * p->dilation_h) * line + (left + tap * p->dilation_w) * channels;
                const int32_t weights = (row * p->kernel_w + tap) * channels;
                for (int32_t c = 0; c < channels; c += 4) {
                    int32_t sums[4] = {0, 0, 0, 0};
                    if (rows > 0 && taps > 0) {
                        sum_taps(input + from + c, p->dilation_h * line, p->dilation_w * channels,
                                 p->weights + weights + c, p->kernel_w * channels, channels, rows, taps, offset, sums);
                    }
                    for (int32_t k = c; k < c + 4; k++) {
                        const int32_t sum = sums[k - c] + (p->bias != NULL ? p->bias[k] : 0);
                        const int32_t value = nn_requantize(sum, p->multiplier[k], p->shift[k]) + p->output_offset;
                        *output++ = nn_clamp(value, p->activation_min, p->activation_max);
                    }
                }
            }
        }
    }
}
