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
    typedef float Four __attribute__((vector_size(16)));
    Four quarters[WIDTH / 4];
    memcpy(quarters, &x, sizeof x);
#pragma GCC unroll 2
    for (int half = WIDTH / 8; half; half /= 2)
#pragma GCC unroll 2
        for (int i = 0; i < half; i++)
            quarters[i] += quarters[i + half];
    return (quarters[0][0] + quarters[0][2]) + (quarters[0][1] + quarters[0][3]);
}

static inline Vector either(Integers condition, Vector yes, Vector no)
{
    return (Vector)((condition & (Integers)yes) | (~condition & (Integers)no));
}

/* e^a for a <= 0 or a little above, within 3e-7 relatively; 2^-126 below a = -87.33; NaN for NaN.
 *
 * a = n ln 2 + r with |r| <= ln(2) / 2; e^r = 1 + r + r^2 p(r), p fitted for the least largest relative error (3e-9). */
static inline Vector exponential(Vector a)
{
    const float round_to_integer = 12582912.0f; /* 1.5 * 2^23: the sum's last bit is worth 1 */
    const Vector least = (Vector){0} - 87.33f;
    a = either(a < least, least, a);
    Vector shifted = a * 1.44269504f + round_to_integer;
    Vector n = shifted - round_to_integer;
    Vector r = (a - n * 0.693145752f) - n * 1.42860677e-6f; /* ln 2 in two parts: the first times n is exact */
    Vector p = r * 0.00138146166f + 0.00836871282f;
    p = p * r + 0.0416683875f;
    p = p * r + 0.166665207f;
    p = p * r + 0.499999935f;
    Vector e_to_r = (p * r) * r + r + 1.0f;
    Integers two_to_n = ((Integers)shifted << 23) + 0x3f800000; /* n is in the low bits of `shifted` */
    return e_to_r * (Vector)two_to_n;
}
