#include "nn.h"

void nn_mul(const nn_mul_params *p, const int8_t *a, const int8_t *b, int8_t *output)
{
    for (int32_t i = 0; i < p->count; i++) {
        const int32_t product = (a[i] + p->offset_a) * (b[i] + p->offset_b);
        const int32_t value = nn_requantize(product, p->multiplier, p->shift) + p->output_offset;
        output[i] = nn_clamp(value, p->activation_min, p->activation_max);
    }
}
