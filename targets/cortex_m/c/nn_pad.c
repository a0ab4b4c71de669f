#include "nn.h"

void nn_pad(const nn_pad_params *p, const int8_t *input, int8_t *output)
{
    memset(output, p->value, (size_t)(p->out[0] * p->out[1] * p->out[2] * p->out[3]));
    for (int32_t i = 0; i < p->in[0]; i++) {
        for (int32_t j = 0; j < p->in[1]; j++) {
            for (int32_t k = 0; k < p->in[2]; k++, input += p->in[3]) {
                const int32_t plane = (i + p->before[0]) * p->out[1] + j + p->before[1];
                const int32_t row = plane * p->out[2] + k + p->before[2];
                memcpy(output + row * p->out[3] + p->before[3], input, (size_t)p->in[3]);
            }
        }
    }
}
