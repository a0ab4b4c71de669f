#include "nn.h"

static int32_t dot(const int8_t *input, const int8_t *weights, int32_t count, int32_t offset)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < count; i++) {
        sum += (input[i] + offset) * weights[i];
    }
    return sum;
}

void nn_conv_2d(const nn_conv_params *p, const int8_t *input, int8_t *output)
{
    for (int32_t batch = 0; batch < p->batches; batch++, input += p->in_h * p->in_w * p->in_c) {
        for (int32_t y = 0; y < p->out_h; y++) {
            const int32_t top = y * p->stride_h - p->pad_h;
            const int32_t row_end = nn_end_tap(top, p->dilation_h, p->kernel_h, p->in_h);
            for (int32_t x = 0; x < p->out_w; x++) {
                const int32_t left = x * p->stride_w - p->pad_w;
                const int32_t tap_first = nn_first_tap(left, p->dilation_w);
                const int32_t tap_end = nn_end_tap(left, p->dilation_w, p->kernel_w, p->in_w);
                const int8_t *filter = p->weights;
                for (int32_t c = 0; c < p->out_c; c++, filter += p->kernel_h * p->kernel_w * p->in_c) {
                    int32_t sum = p->bias != NULL ? p->bias[c] : 0;
                    for (int32_t row = nn_first_tap(top, p->dilation_h); row < row_end; row++) {
                        const int8_t *line = input + (top + row * p->dilation_h) * p->in_w * p->in_c;
                        const int8_t *taps = filter + row * p->kernel_w * p->in_c;
                        if (p->dilation_w == 1 && tap_first < tap_end) { /* neighbours in memory */
                            sum += dot(line + (left + tap_first) * p->in_c, taps + tap_first * p->in_c,
                                       (tap_end - tap_first) * p->in_c, p->input_offset);
                            continue;
                        }
                        for (int32_t tap = tap_first; tap < tap_end; tap++) {
                            sum += dot(line + (left + tap * p->dilation_w) * p->in_c, taps + tap * p->in_c, p->in_c,
                                       p->input_offset);
                        }
                    }
                    sum = nn_requantize(sum, p->multiplier[c], p->shift[c]) + p->output_offset;
                    *output++ = nn_clamp(sum, p->activation_min, p->activation_max);
                }
            }
        }
    }
}
