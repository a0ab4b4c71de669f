#include "nn_broadcast.h"

static inline int8_t difference(const void *params, int32_t a, int32_t b)
{
    const nn_add_params *const p = (const nn_add_params *)params;
    const int32_t first = nn_operand(a + p->offset_a, 20, p->multiplier_a, p->shift_a);
    const int32_t second = nn_operand(b + p->offset_b, 20, p->multiplier_b, p->shift_b);
    const int32_t value = nn_requantize(first - second, p->multiplier, p->shift) + p->output_offset;
    return nn_clamp(value, p->activation_min, p->activation_max);
}

void nn_sub(const nn_broadcast_add_params *p, const int8_t *a, const int8_t *b, int8_t *output)
{
    nn_each_pair(&p->walk, a, b, output, difference, &p->op);
}
