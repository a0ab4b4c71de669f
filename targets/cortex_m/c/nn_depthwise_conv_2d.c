#include "nn.h"

void nn_depthwise_conv_2d(const nn_conv_params *p, const int8_t *input, int8_t *output)
{
    const int32_t per_input = p->out_c / p->in_c;
    for (int32_t batch = 0; batch < p->batches; batch++, input += p->in_h * p->in_w * p->in_c) {
        for (int32_t y = 0; y < p->out_h; y++) {
            for (int32_t x = 0; x < p->out_w; x++) {
                for (int32_t c = 0; c < p->out_c; c++) {
                    int32_t sum = p->bias != NULL ? p->bias[c] : 0;
                    for (int32_t row = 0; row < p->kernel_h; row++) {
                        const int32_t in_y = y * p->stride_h - p->pad_h + row * p->dilation_h;
                        if (in_y < 0 || in_y >= p->in_h) {
                            continue;
                        }
                        for (int32_t tap = 0; tap < p->kernel_w; tap++) {
                            const int32_t in_x = x * p->stride_w - p->pad_w + tap * p->dilation_w;
                            if (in_x < 0 || in_x >= p->in_w) {
                                continue;
                            }
                            sum += (input[(in_y * p->in_w + in_x) * p->in_c + c / per_input] + p->input_offset) *
                                   p->weights[(row * p->kernel_w + tap) * p->out_c + c];
                        }
                    }
                    sum = nn_requantize(sum, p->multiplier[c], p->shift[c]) + p->output_offset;
                    *output++ = nn_clamp(sum, p->activation_min, p->activation_max);
                }
            }
        }
    }
}
