#include "nn_broadcast.h"

static inline int8_t product(const void *params, int32_t a, int32_t b)
{
    const nn_mul_params *const p = (const nn_mul_params *)params;
    const int32_t value = nn_requantize((a + p->offset_a) * (b + p->offset_b), p->multiplier, p->shift);
    return nn_clamp(value + p->output_offset, p->activation_min, p->activation_max);
}

void nn_mul_broadcast(const nn_broadcast_mul_params *p, const int8_t *a, const int8_t *b, int8_t *output)
{
    nn_each_pair(&p->walk, a, b, output, product, &p->op);
}
