/* The widest vectors of floats that this processor has. */

#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { WIDTH = 16 };
#elif defined(__AVX__)
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif

typedef float Vector __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Integers __attribute__((vector_size(4 * WIDTH)));

/* From any address. */
static inline Vector load(const float *from)
{
    Vector vector;
    memcpy(&vector, from, sizeof vector);
    return vector;
}

/* By halves, which is quicker than one after the other: each step waits for the one before. */
static inline float sum_of(Vector x)
{
#pragma GCC unroll 4
    for (int half = WIDTH / 2; half; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++)
            x[i] += x[i + half];
    return x[0];
}
