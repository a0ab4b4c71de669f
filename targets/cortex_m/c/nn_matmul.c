#include "nn.h"

static void multiply(const nn_matmul_params *p, const int8_t *a, const int8_t *b, int8_t *output)
{
    for (int32_t row = 0; row < p->rows; row++, a += p->row_a) {
        const int8_t *column = b;
        for (int32_t x = 0; x < p->columns; x++, column += p->column_b) {
            const int8_t *from_a = a, *from_b = column;
            int32_t sum = 0;
            for (int32_t k = p->depth; k > 0; k--, from_a += p->depth_a, from_b += p->depth_b) {
                sum += (*from_a + p->offset_a) * (*from_b + p->offset_b);
            }
            sum = nn_requantize(sum, p->multiplier, p->shift) + p->output_offset;
            *output++ = nn_clamp(sum, p->activation_min, p->activation_max);
        }
    }
}

void nn_matmul(const nn_matmul_params *p, const int8_t *a, const int8_t *b, int8_t *output)
{
    for (int32_t i = 0; i < p->batches[0]; i++) {
        for (int32_t j = 0; j < p->batches[1]; j++) {
            for (int32_t k = 0; k < p->batches[2]; k++, output += p->rows * p->columns) {
                multiply(p, a + i * p->step_a[0] + j * p->step_a[1] + k * p->step_a[2],
                         b + i * p->step_b[0] + j * p->step_b[1] + k * p->step_b[2], output);
            }
        }
    }
}
