#include "nn.h"

void nn_conv_2d_grouped(const nn_grouped_conv_params *p, const int8_t *input, int8_t *output)
{
    const int32_t channels = p->in_c / p->groups, filters = p->out_c / p->groups;
    for (int32_t batch = 0; batch < p->batches; batch++, input += p->in_h * p->in_w * p->in_c) {
        for (int32_t y = 0; y < p->out_h; y++) {
            for (int32_t x = 0; x < p->out_w; x++) {
                for (int32_t c = 0; c < p->out_c; c++) {
                    const int8_t *const weights = p->weights + c * p->kernel_h * p->kernel_w * channels;
                    const int8_t *const group = input + c / filters * channels;
                    int32_t sum = p->bias != NULL ? p->bias[c] : 0;
                    for (int32_t row = 0; row < p->kernel_h; row++) {
                        const int32_t in_y = y * p->stride_h - p->pad_h + row * p->dilation_h;
                        for (int32_t tap = 0; tap < p->kernel_w; tap++) {
                            const int32_t in_x = x * p->stride_w - p->pad_w + tap * p->dilation_w;
                            if (in_y < 0 || in_y >= p->in_h || in_x < 0 || in_x >= p->in_w) {
                                continue;
                            }
                            const int8_t *const from = group + (in_y * p->in_w + in_x) * p->in_c;
                            const int8_t *const weight = weights + (row * p->kernel_w + tap) * channels;
                            for (int32_t k = 0; k < channels; k++) {
                                sum += (from[k] + p->input_offset) * weight[k];
                            }
                        }
                    }
                    sum = nn_requantize(sum, p->multiplier[c], p->shift[c]) + p->output_offset;
                    *output++ = nn_clamp(sum, p->activation_min, p->activation_max);
                }
            }
        }
    }
}
