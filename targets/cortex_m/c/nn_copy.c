#include "nn.h"

void nn_copy(const nn_copy_params *p, const int8_t *input, int8_t *output)
{
    const int32_t count = p->extent[3], step = p->step[3];
    for (int32_t i = 0; i < p->extent[0]; i++) {
        for (int32_t j = 0; j < p->extent[1]; j++) {
            for (int32_t k = 0; k < p->extent[2]; k++, output += count) {
                const int8_t *from = input + p->start + i * p->step[0] + j * p->step[1] + k * p->step[2];
                if (step == 1) {
                    memcpy(output, from, (size_t)count);
                    continue;
                }
                for (int32_t l = 0; l < count; l++) {
                    output[l] = from[l * step];
                }
            }
        }
    }
}
