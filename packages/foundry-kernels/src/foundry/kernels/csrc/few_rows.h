/* Operators on few rows that others are made of; see their files. */

#pragma once

typedef struct {
    const float *weight, *bias; /* (N, K), (N) or null */
} Layer;

void linear(const float *x, const float *weight, const float *bias, float *y, long rows, long inner, long columns,
            int threads);
void rms_norm(const float *x, const float *weight, float *y, long rows, long size, float eps);
