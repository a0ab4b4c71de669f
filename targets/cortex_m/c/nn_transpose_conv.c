#include "nn.h"

static int32_t dot(const int8_t *input, const int8_t *weights, int32_t channels, int32_t offset)
{
    int32_t sum = 0;
    for (; channels > 0; channels--) {
        sum += (*input++ + offset) * *weights++;
    }
    return sum;
}

/* Each output gathers the inputs that reach it: those whose distance from it is a multiple of the stride. */
void nn_transpose_conv(const nn_conv_params *p, const int8_t *input, int8_t *output)
{
    const int32_t filter = p->kernel_h * p->kernel_w * p->in_c;
    for (int32_t batch = 0; batch < p->batches; batch++, input += p->in_h * p->in_w * p->in_c) {
        for (int32_t y = 0; y < p->out_h; y++) {
            for (int32_t x = 0; x < p->out_w; x++) {
                for (int32_t c = 0; c < p->out_c; c++) {
                    int32_t sum = p->bias != NULL ? p->bias[c] : 0;
                    for (int32_t row = (y + p->pad_h) % p->stride_h; row < p->kernel_h; row += p->stride_h) {
                        const int32_t in_y = (y + p->pad_h - row) / p->stride_h;
                        if (y + p->pad_h < row || in_y >= p->in_h) {
                            continue;
                        }
                        for (int32_t tap = (x + p->pad_w) % p->stride_w; tap < p->kernel_w; tap += p->stride_w) {
                            const int32_t in_x = (x + p->pad_w - tap) / p->stride_w;
                            if (x + p->pad_w < tap || in_x >= p->in_w) {
                                continue;
                            }
                            sum += dot(input + (in_y * p->in_w + in_x) * p->in_c,
                                       p->weights + c * filter + (row * p->kernel_w + tap) * p->in_c, p->in_c,
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
