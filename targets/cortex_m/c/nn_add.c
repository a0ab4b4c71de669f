#include "nn_dsp.h"

void nn_add(const nn_add_params *params, const int8_t *a, const int8_t *b, int8_t *output)
{
    const nn_add_params copy = *params, *const p = &copy; /* bytes that are written cannot change it */
    for (int32_t i = 0; i < p->count; i++) { /* both operands with 20 bits below the point */
        const int32_t first = nn_requantize_right((a[i] + p->offset_a) * (1 << 20), p->multiplier_a, -p->shift_a);
        const int32_t second = nn_requantize_right((b[i] + p->offset_b) * (1 << 20), p->multiplier_b, -p->shift_b);
        const int32_t sum = nn_requantize(first + second, p->multiplier, p->shift) + p->output_offset;
        output[i] = nn_clamp(sum, p->activation_min, p->activation_max);
    }
}
