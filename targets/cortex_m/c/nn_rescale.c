#include "nn.h"

void nn_rescale(const nn_rescale_params *p, const int8_t *input, int8_t *output)
{
    for (int32_t i = 0; i < p->count; i++) {
        const int32_t value = nn_requantize(input[i] + p->input_offset, p->multiplier, p->shift) + p->output_offset;
        output[i] = nn_clamp(value, p->activation_min, p->activation_max);
    }
}
