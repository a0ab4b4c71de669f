#include "nn.h"

void nn_transpose(const nn_transpose_params *p, const int8_t *input, int8_t *output)
{
    for (int32_t i = 0; i < p->out[0]; i++) {
        for (int32_t j = 0; j < p->out[1]; j++) {
            for (int32_t k = 0; k < p->out[2]; k++) {
                const int8_t *from = input + i * p->stride[0] + j * p->stride[1] + k * p->stride[2];
                for (int32_t l = 0; l < p->out[3]; l++, from += p->stride[3]) {
                    *output++ = *from;
                }
            }
        }
    }
}
