#include "nn_broadcast.h"

static inline int8_t extreme(const void *params, int32_t a, int32_t b)
{
    const nn_extreme_params *const p = (const nn_extreme_params *)params;
    return (int8_t)(p->sign > 0 ? nn_larger(a, b) : nn_smaller(a, b));
}

void nn_extreme(const nn_broadcast_extreme_params *p, const int8_t *a, const int8_t *b, int8_t *output)
{
    nn_each_pair(&p->walk, a, b, output, extreme, &p->op);
}
