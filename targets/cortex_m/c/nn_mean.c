#include "nn.h"

static int32_t sum_of(const nn_mean_params *p, const int8_t *from)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < p->reduced[0]; i++) {
        for (int32_t j = 0; j < p->reduced[1]; j++) {
            for (int32_t k = 0; k < p->reduced[2]; k++) {
                for (int32_t l = 0; l < p->reduced[3]; l++) {
                    sum += from[i * p->stride[0] + j * p->stride[1] + k * p->stride[2] + l * p->stride[3]];
                }
            }
        }
    }
    return sum;
}

void nn_mean(const nn_mean_params *p, const int8_t *input, int8_t *output)
{
    for (int32_t i = 0; i < p->kept[0]; i++) {
        for (int32_t j = 0; j < p->kept[1]; j++) {
            for (int32_t k = 0; k < p->kept[2]; k++) {
                for (int32_t l = 0; l < p->kept[3]; l++) {
                    const int32_t at = i * p->stride[0] + j * p->stride[1] + k * p->stride[2] + l * p->stride[3];
                    const int32_t sum = sum_of(p, input + at) + p->input_sum_offset;
                    const int32_t mean = nn_requantize(sum, p->multiplier, p->shift) + p->output_offset;
                    *output++ = nn_clamp(mean, INT8_MIN, INT8_MAX);
                }
            }
        }
    }
}
