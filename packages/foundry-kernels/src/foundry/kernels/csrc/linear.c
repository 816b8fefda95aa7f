/* y = x W^T + b for few rows of x, in fp32: what each new token asks of a layer. Every weight is read once and used a
 * few times, so the time is that of reading W, and W is read from end to end as it lies: one stream for the processor's
 * prefetching to follow comes twice as fast as several rows of W side by side.
 *
 * x (R, K), W (N, K), b (N) or null, y (R, N), all contiguous. Each element of y is summed in one order, whatever the
 * number of rows and of threads: a row's result does not depend on its company. */

#include <omp.h>

#include "few_rows.h"
#include "vector.h"

enum { ROWS = 8 };                 /* of x at a time, with two sums in registers for each */
enum { PREFETCH = 1024 };          /* floats ahead */
enum { CACHED = 1 << 13 };         /* floats of W that stay in the nearest cache from one tile of x to the next */
enum { WORTH_A_THREAD = 1 << 16 }; /* multiply-adds; waking a thread takes about a microsecond */

const int vector_width = WIDTH; /* for whoever asks what the kernels were compiled for */

typedef struct {
    const float *x, *weight, *bias;
    float *y;
    long rows, inner, columns;
} Linear;

/* y[row .. row + rows, column]; `rows` is a constant where this is inlined. */
__attribute__((always_inline)) static inline void dot(const Linear *s, long row, long column, const int rows)
{
    const float *x = s->x + row * s->inner, *weight = s->weight + column * s->inner;
    const long inner = s->inner;
    Vector even[ROWS], odd[ROWS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        even[i] = odd[i] = (Vector){0};
    long k = 0;
    for (; k + 2 * WIDTH <= inner; k += 2 * WIDTH) {
        __builtin_prefetch(weight + k + PREFETCH);
        __builtin_prefetch(weight + k + WIDTH + PREFETCH);
        const Vector first = load(weight + k), second = load(weight + k + WIDTH);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            even[i] += load(x + i * inner + k) * first;
            odd[i] += load(x + i * inner + k + WIDTH) * second;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        float total = sum_of(even[i] + odd[i]);
        for (long rest = k; rest < inner; rest++)
            total += x[i * inner + rest] * weight[rest];
        s->y[(row + i) * s->columns + column] = total + (s->bias ? s->bias[column] : 0.0f);
    }
}

static void some_columns(const Linear *s, long row, long column, long stop)
{
#define FOR_ALL(rows)                                                                                                  \
    case rows:                                                                                                         \
        for (; column < stop; column++)                                                                                \
            dot(s, row, column, rows);                                                                                 \
        break;
    const long rows = s->rows - row < ROWS ? s->rows - row : ROWS;
    switch (rows) { FOR_ALL(1) FOR_ALL(2) FOR_ALL(3) FOR_ALL(4) FOR_ALL(5) FOR_ALL(6) FOR_ALL(7) FOR_ALL(8) }
#undef FOR_ALL
}

static void part(const Linear *s, long column, long stop)
{
    const long at_once = s->inner < CACHED ? CACHED / s->inner : 1;
    for (; column < stop; column += at_once)
        for (long row = 0; row < s->rows; row += ROWS)
            some_columns(s, row, column, column + at_once < stop ? column + at_once : stop);
}

void linear(const float *x, const float *weight, const float *bias, float *y, long rows, long inner, long columns,
            int threads)
{
    const Linear s = {x, weight, bias, y, rows, inner, columns};
    const long worth = rows * inner * columns / WORTH_A_THREAD;
    threads = worth < threads ? (int)worth : threads;
    if (threads <= 1) {
        part(&s, 0, columns);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        const long here = omp_get_thread_num(), all = omp_get_num_threads();
        part(&s, here * columns / all, (here + 1) * columns / all);
    }
}
