#include "nn.h"

void nn_pick(const nn_pick_params *p, const int8_t *input, int8_t *output)
{
    for (int32_t plane = 0; plane < p->planes; plane++, input += p->plane_bytes) {
        for (int32_t y = 0; y < p->out_rows; y++) {
            const int8_t *const row = input + p->rows[y] * p->row_bytes;
            for (int32_t x = 0; x < p->out_columns; x++, output += p->column_bytes) {
                memcpy(output, row + p->columns[x] * p->column_bytes, (size_t)p->column_bytes);
            }
        }
    }
}
