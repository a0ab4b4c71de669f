#include "nn.h"

void nn_fully_connected(const nn_fully_connected_params *p, const int8_t *input, int8_t *output)
{
    for (int32_t batch = 0; batch < p->batches; batch++, input += p->in) {
        const int8_t *row = p->weights;
        for (int32_t c = 0; c < p->out; c++, row += p->in) {
            int32_t sum = p->bias != NULL ? p->bias[c] : 0;
            for (int32_t i = 0; i < p->in; i++) {
                sum += (input[i] + p->input_offset) * row[i];
            }
            const int32_t factor = p->per_channel ? c : 0;
            sum = nn_requantize(sum, p->multiplier[factor], p->shift[factor]) + p->output_offset;
            *output++ = nn_clamp(sum, p->activation_min, p->activation_max);
        }
    }
}
