/* y = x / sqrt(mean(x^2) + eps) * weight in fp32; x, y (R, C) contiguous, weight (C); y may be x. For few rows: one thread. */

#include <math.h>

#include "few_rows.h"
#include "vector.h"

void rms_norm(const float *x, const float *weight, float *y, long rows, long size, float eps)
{
    for (long row = 0; row < rows; row++, x += size, y += size) {
        Vector squares = {0};
        const long whole = size - size % WIDTH;
        for (long i = 0; i < whole; i += WIDTH) {
            const Vector part = load(x + i);
            squares += part * part;
        }
        float sum = sum_of(squares);
        for (long i = whole; i < size; i++)
            sum += x[i] * x[i];
        const float scale = 1.0f / sqrtf(sum / (float)size + eps);
        for (long i = 0; i < size; i++)
            y[i] = x[i] * scale * weight[i];
    }
}
