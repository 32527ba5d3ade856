/* Passes of the probe's solver over features in memory, in float32, for processors without AMX: see kernels.py.
 *
 * One source for vectors of any length, which are the compiler's own: compiled with AVX2 they have 8 lanes, with AVX-512
 * 16. Shapes: N samples, K classes, S strengths, M = S x K columns of scores, R columns of features, a multiple of 32.
 * Features are (N, R); all else is class-major: scores (M, N), weights (M, R). A thread takes blocks of rows, and does
 * with them all that it can while they are in its core's cache; sums are float32 over FLUSH rows, and float64 beyond.
 */
#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
enum { LANES = 16, TALL = 12 }; /* TALL x 2 vectors are summed at once: they and what they are made of fill registers */
#else
enum { LANES = 8, TALL = 6 };
#endif

typedef int64_t i64;
typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef float loose_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), may_alias));
typedef double dvec __attribute__((vector_size(4 * LANES), aligned(8), may_alias));

enum {
    WIDE = 2 * LANES, /* columns of a tile */
    BLOCK = 96,       /* rows of features worked on at once: 0.5 MB of 1,280 dimensions; a multiple of 2 x TALL and LANES */
    DEEP = 256,       /* features multiplied at once: as many rows of weights fit the first-level cache */
    FLUSH = 42 * BLOCK,
    OTHERS = 3, /* points besides the first that span a space */
};

/* The memory that a thread works in. */
typedef struct {
    double *total_MR; /* sums over all rows but the last FLUSH */
    float *sum_MR;
    float *value_MB;  /* values to multiply with the features */
    float *scores_MB;
    float *wide_BM; /* scores, or probabilities, by rows */
    float *rows_BD; /* DEEP features of a block, or WIDE of them */
} ThreadBuffer;

static i64 min(i64 a, i64 b) { return a < b ? a : b; }
static i64 rounded(i64 count, i64 step) { return (count + step - 1) / step * step; }
/* Columns of scores with room for whole vectors, and for tiles of up to TALL rows. */
static i64 padded(i64 M) { return rounded(M, 32) + TALL; }

static i64 weight_bytes(i64 M, i64 R) { return rounded(M, LANES) * R * sizeof(float); }
static i64 buffer_bytes(i64 M, i64 R) {
    return padded(M) * (R * (sizeof(float) + sizeof(double)) + 3 * BLOCK * sizeof(float)) + BLOCK * DEEP * sizeof(float);
}

/* Bytes of the workspace that the functions below take, aligned to 64. */
i64 workspace_bytes(i64 M, i64 R) { return weight_bytes(M, R) + omp_get_max_threads() * buffer_bytes(M, R); }

static ThreadBuffer thread_buffer(char *workspace, int thread, i64 M, i64 R) {
    i64 columns = padded(M);
    ThreadBuffer mine;
    mine.rows_BD = (float *)(workspace + weight_bytes(M, R) + thread * buffer_bytes(M, R));
    mine.total_MR = (double *)(mine.rows_BD + BLOCK * DEEP);
    mine.sum_MR = (float *)(mine.total_MR + columns * R);
    mine.value_MB = mine.sum_MR + columns * R;
    mine.scores_MB = mine.value_MB + columns * BLOCK;
    mine.wide_BM = mine.scores_MB + columns * BLOCK;
    return mine;
}

static void clear(const ThreadBuffer *buffer, i64 M, i64 R, i64 rows) {
    if (rows > FLUSH) memset(buffer->total_MR, 0, M * R * sizeof(double));
    memset(buffer->sum_MR, 0, (char *)buffer->scores_MB - (char *)buffer->sum_MR);
}

/* Whether this processor has the instructions that this was compiled for. */
int supported(void) {
#ifdef __AVX512F__
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
}

/* Number of threads that each leave their sums in the output of softmax_space and softmax_moments. */
int num_threads(void) { return omp_get_max_threads(); }

/* `count` numbers, 0 in the lanes beyond. */
static inline vec load(const float *from, i64 count) {
    if (count >= LANES) return *(const loose_vec *)from;
    vec x = {0};
    memcpy(&x, from, count * sizeof(float));
    return x;
}
static inline void store(float *to, vec x, i64 count) {
    if (count >= LANES) *(loose_vec *)to = x;
    else memcpy(to, &x, count * sizeof(float));
}
static inline vec all(float x) { return x - (vec){0}; }
/* a where the mask is set, else b. */
static inline vec chosen(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }
static inline vec larger(vec a, vec b) { return chosen(a > b, a, b); }
static inline float total(vec x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}
/* Labels of samples; -1 in the lanes beyond `count`. */
static inline ivec labels_of(const i64 *label, i64 count) {
    ivec y;
    for (int i = 0; i < LANES; i++) y[i] = i < count ? (int32_t)label[i] : -1;
    return y;
}
/* The values (K, stride) of samples at their labels; 0 in the lanes beyond. */
static inline vec at_labels(const float *value, i64 stride, ivec y) {
    vec x;
    for (int i = 0; i < LANES; i++) x[i] = y[i] >= 0 ? value[y[i] * stride + i] : 0;
    return x;
}
/* The weights of the samples from n on; NULL where all count alike. */
static inline const float *weights_from(const float *sample_weight, i64 n) {
    return sample_weight ? sample_weight + n : NULL;
}
static inline vec weights_of(const float *sample_weight, i64 at, i64 count) {
    return sample_weight ? load(sample_weight + at, count) : all(1);
}

/* Pack weights (M, R) as [vectors of M, two at a time][R][their lanes]. A team divides them. */
static void pack(const float *weight, i64 M, i64 R, float *packed) {
#pragma omp for schedule(static)
    for (i64 piece = 0; piece < rounded(M, WIDE) / WIDE * (R / 32); piece++) {
        i64 m = piece / (R / 32) * WIDE, first = piece % (R / 32) * 32;
        int lanes = M - m > LANES ? WIDE : LANES;
        float *to = packed + m * R;
        for (i64 r = first; r < first + 32; r++)
            for (int j = 0; j < lanes; j++) to[r * lanes + j] = m + j < M ? weight[(m + j) * R + r] : 0;
    }
}

/* wide (rows, stride) += rows (count, DEEP) x packed weights, for `tall` rows and one or two vectors of columns. */
static inline __attribute__((always_inline)) void score_tile(const int tall, const int vectors, const float *rows,
                                                             const float *packed, i64 depth, float *wide, i64 stride) {
    vec sum[2 * TALL][2]; /* from 0, and added to the others afterwards, so that rounding stays that of few terms */
    for (int i = 0; i < tall; i++)
        for (int v = 0; v < vectors; v++) sum[i][v] = (vec){0};
    for (i64 r = 0; r < depth; r++) {
        vec w[2];
        for (int v = 0; v < vectors; v++) w[v] = *(const loose_vec *)(packed + (r * vectors + v) * LANES);
#pragma GCC unroll 24
        for (int i = 0; i < tall; i++) {
            vec x = all(rows[i * DEEP + r]);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) sum[i][v] += x * w[v];
        }
    }
    for (int i = 0; i < tall; i++)
        for (int v = 0; v < vectors; v++) *(loose_vec *)(wide + i * stride + v * LANES) += sum[i][v];
}

/* scores (M, BLOCK) of a block of rows. */
static void score_block(const float *features, i64 rows, const float *packed, const ThreadBuffer *buffer, i64 M, i64 R) {
    i64 stride = rounded(M, LANES), all_rows = rounded(rows, 2 * TALL);
    float *chunk = buffer->rows_BD, *wide = buffer->wide_BM;
    memset(wide, 0, all_rows * stride * sizeof(float));
    memset(chunk + rows * DEEP, 0, (all_rows - rows) * DEEP * sizeof(float));
    for (i64 first = 0; first < R; first += DEEP) {
        i64 depth = min(DEEP, R - first);
        for (i64 n = 0; n < rows; n++) memcpy(chunk + n * DEEP, features + n * R + first, depth * sizeof(float));
        for (i64 m = 0; m < stride; m += WIDE) {
            const float *weights = packed + m * R;
            if (stride - m >= WIDE)
                for (i64 n = 0; n < all_rows; n += TALL)
                    score_tile(TALL, 2, chunk + n * DEEP, weights + first * WIDE, depth, wide + n * stride + m, stride);
            else
                for (i64 n = 0; n < all_rows; n += 2 * TALL)
                    score_tile(2 * TALL, 1, chunk + n * DEEP, weights + first * LANES, depth, wide + n * stride + m,
                               stride);
        }
    }
    for (i64 n = 0; n < all_rows; n += 4) /* by rows that are in the first-level cache */
        for (i64 m = 0; m < M; m++)
            for (int i = 0; i < 4; i++) buffer->scores_MB[m * BLOCK + n + i] = wide[(n + i) * stride + m];
}

/* sum (tall, R) += values (tall, BLOCK) x WIDE columns of rows. */
static inline __attribute__((always_inline)) void gather_tile(const int tall, const float *value, const float *columns,
                                                              i64 rows, float *out, i64 R) {
    vec sum[TALL][2];
    for (int i = 0; i < tall; i++) sum[i][0] = sum[i][1] = (vec){0};
    for (i64 n = 0; n < rows; n++) {
        vec x[2] = {*(const loose_vec *)(columns + n * WIDE), *(const loose_vec *)(columns + n * WIDE + LANES)};
#pragma GCC unroll 24
        for (int i = 0; i < tall; i++) {
            vec factor = all(value[i * BLOCK + n]);
            sum[i][0] += factor * x[0];
            sum[i][1] += factor * x[1];
        }
    }
    for (int i = 0; i < tall; i++)
        for (int v = 0; v < 2; v++) *(loose_vec *)(out + i * R + v * LANES) += sum[i][v];
}

/* sum (M, R) += values (M, BLOCK) of a block of rows times the rows. */
static void gather_block(const float *features, i64 rows, const ThreadBuffer *buffer, i64 M, i64 R) {
    i64 tiles = (M + TALL - 1) / TALL, tall = (M + tiles - 1) / tiles; /* rows beyond M are padding */
    float *columns = buffer->rows_BD;
    for (i64 r = 0; r < R; r += WIDE) {
        const float *next = features + rows * (R + r); /* of the next block, as much as of this one */
        for (i64 n = 0; n < rows; n++) {
            memcpy(columns + n * WIDE, features + n * R + r, WIDE * sizeof(float));
            for (int line = 0; line < WIDE; line += 16) __builtin_prefetch(next + n * WIDE + line);
        }
        for (i64 m = 0; m < M; m += tall) {
            const float *value = buffer->value_MB + m * BLOCK;
            float *out = buffer->sum_MR + m * R + r;
            switch (tall) {
#define CASE(tall) case tall: gather_tile(tall, value, columns, rows, out, R); break;
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#ifdef __AVX512F__
                CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
#undef CASE
            }
        }
    }
}

static void flush(const ThreadBuffer *buffer, i64 M, i64 R) {
    for (i64 i = 0; i < M * R; i++) buffer->total_MR[i] += buffer->sum_MR[i];
    memset(buffer->sum_MR, 0, M * R * sizeof(float));
}

/* Row m of the sums of all threads over so many rows of features, times a scale. */
static void sum_threads(char *workspace, i64 m, double scale, double *out, i64 M, i64 R, i64 rows) {
    memset(out, 0, R * sizeof(double));
    for (int thread = 0; thread < omp_get_num_threads(); thread++) {
        ThreadBuffer other = thread_buffer(workspace, thread, M, R);
        for (i64 r = 0; r < R; r++) out[r] += scale * other.sum_MR[m * R + r];
        if (rows > FLUSH)
            for (i64 r = 0; r < R; r++) out[r] += scale * other.total_MR[m * R + r];
    }
}

/* scores (M, N) = weights (M, R) x features'. */
void scores(const float *features, const float *weight, float *out, char *workspace, i64 M, i64 N, i64 R) {
    float *packed = (float *)workspace;
#pragma omp parallel
    {
        ThreadBuffer mine = thread_buffer(workspace, omp_get_thread_num(), M, R);
        pack(weight, M, R, packed);
#pragma omp for schedule(static)
        for (i64 n = 0; n < N; n += BLOCK) {
            i64 rows = min(BLOCK, N - n);
            score_block(features + n * R, rows, packed, &mine, M, R);
            for (i64 m = 0; m < M; m++) memcpy(out + m * N + n, mine.scores_MB + m * BLOCK, rows * sizeof(float));
        }
    }
}

/* (diag(p) - p p') u of a block, u in its scores, times each sample's weight: losses.py has the formula. Returns the sum
 * over samples of its inner product with u. */
static double hessian_block(const float *residual, const i64 *label, const float *sample_weight, i64 rows,
                            const float *scores_KB, float *value_KB, i64 K, i64 N) {
    double curvature = 0;
    for (i64 i = 0; i < rows; i += LANES) {
        i64 left = rows - i;
        ivec y = labels_of(label + i, left);
        const float *u = scores_KB + i, *r = residual + i;
        vec mean = {0}, square = {0}, weights = weights_of(sample_weight, i, left);
        for (i64 k = 0; k < K; k++) mean += load(r + k * N, left) * *(const loose_vec *)(u + k * BLOCK);
        vec base = at_labels(u, BLOCK, y) + mean;
        for (i64 k = 0; k < K; k++) {
            vec from_base = *(const loose_vec *)(u + k * BLOCK) - base, change = from_base * load(r + k * N, left);
            change = chosen(y == (int32_t)k, change - mean, change) * weights;
            square += change * from_base; /* changes sum to 0 over classes, so that any base will do */
            *(loose_vec *)(value_KB + k * BLOCK + i) = change;
        }
        curvature += total(square);
    }
    return curvature;
}

/* The product of the Hessian of the mean softmax loss with directions (S, K, R), in halves: their scores (S, K, N) and
 * curvatures (threads, S), to be added up; and unless `out` is NULL the product, one pass in all. Residuals (S, K, N).
 * The product's mean over classes is rounding and is subtracted. */
void softmax_halves(const float *features, const float *residual, const i64 *label, const float *sample_weight,
                    double scale, const float *direction, float *scores, double *curvature, float *out, char *workspace,
                    i64 S, i64 K, i64 N, i64 R) {
    i64 M = S * K;
    float *packed = (float *)workspace;
#pragma omp parallel
    {
        ThreadBuffer mine = thread_buffer(workspace, omp_get_thread_num(), M, R);
        double row[R], *sum = curvature + omp_get_thread_num() * S;
        i64 since = 0;
        clear(&mine, M, R, N);
        memset(sum, 0, S * sizeof(double));
        pack(direction, M, R, packed);
#pragma omp for schedule(static)
        for (i64 n = 0; n < N; n += BLOCK) {
            i64 rows = min(BLOCK, N - n);
            score_block(features + n * R, rows, packed, &mine, M, R);
            for (i64 m = 0; m < M; m++) memcpy(scores + m * N + n, mine.scores_MB + m * BLOCK, rows * sizeof(float));
            for (i64 s = 0; s < S; s++)
                sum[s] += scale * hessian_block(residual + s * K * N + n, label + n, weights_from(sample_weight, n), rows,
                                                mine.scores_MB + s * K * BLOCK, mine.value_MB + s * K * BLOCK, K, N);
            if (!out) continue;
            gather_block(features + n * R, rows, &mine, M, R);
            if (N > FLUSH && (since += BLOCK) == FLUSH) flush(&mine, M, R), since = 0;
        }
#pragma omp for schedule(static)
        for (i64 m = 0; m < (out ? M : 0); m++) {
            sum_threads(workspace, m, scale, row, M, R, N);
            for (i64 r = 0; r < R; r++) out[m * R + r] = (float)row[r];
        }
#pragma omp for schedule(static)
        for (i64 piece = 0; piece < (out ? S * (R / LANES) : 0); piece++) {
            float *at = out + piece / (R / LANES) * K * R + piece % (R / LANES) * LANES;
            vec mean = {0};
            for (i64 k = 0; k < K; k++) mean += load(at + k * R, LANES);
            mean /= (float)K;
            for (i64 k = 0; k < K; k++) store(at + k * R, load(at + k * R, LANES) - mean, LANES);
        }
    }
}

static void value_block(const float *value, i64 rows, float *value_KB, i64 K, i64 N) {
    for (i64 k = 0; k < K; k++) memcpy(value_KB + k * BLOCK, value + k * N, rows * sizeof(float));
}

/* r + (diag(p) - p p') c of a block, c a number for each class, times each sample's weight. */
static void shift_block(const float *residual, const float *shift, const i64 *label, const float *sample_weight,
                        i64 rows, float *value_KB, i64 K, i64 N) {
    for (i64 i = 0; i < rows; i += LANES) {
        i64 left = rows - i;
        ivec y = labels_of(label + i, left);
        vec mean = {0}, base, weights = weights_of(sample_weight, i, left);
        for (i64 k = 0; k < K; k++) mean += load(residual + k * N + i, left) * shift[k];
        for (int lane = 0; lane < LANES; lane++) base[lane] = y[lane] >= 0 ? shift[y[lane]] : 0;
        base += mean;
        for (i64 k = 0; k < K; k++) {
            vec r = load(residual + k * N + i, left), moved = (shift[k] - base) * r + r;
            moved = chosen(y == (int32_t)k, moved - mean, moved);
            *(loose_vec *)(value_KB + k * BLOCK + i) = moved * weights;
        }
    }
}

/* out (S, K, R) = scale x values (S, K, N) x features. With shifts (S, K) the values are the residuals of a softmax
 * loss, and out is its mean's gradient once biases have moved by them. */
void gather(const float *features, const float *value, const float *shift, const i64 *label, const float *sample_weight,
            double scale, double *out, char *workspace, i64 S, i64 K, i64 N, i64 R) {
    i64 M = S * K;
#pragma omp parallel
    {
        ThreadBuffer mine = thread_buffer(workspace, omp_get_thread_num(), M, R);
        i64 since = 0;
        clear(&mine, M, R, N);
#pragma omp for schedule(static)
        for (i64 n = 0; n < N; n += BLOCK) {
            i64 rows = min(BLOCK, N - n);
            for (i64 s = 0; s < S; s++) {
                const float *block = value + s * K * N + n;
                float *to = mine.value_MB + s * K * BLOCK;
                const float *weights = weights_from(sample_weight, n);
                if (shift) shift_block(block, shift + s * K, label + n, weights, rows, to, K, N);
                else value_block(block, rows, to, K, N);
            }
            gather_block(features + n * R, rows, &mine, M, R);
            if (N > FLUSH && (since += BLOCK) == FLUSH) flush(&mine, M, R), since = 0;
        }
#pragma omp for schedule(static)
        for (i64 m = 0; m < M; m++) sum_threads(workspace, m, scale, out + m * R, M, R, N);
    }
}

/* p of a block: times its sample's weight into value_MB, as rows (BLOCK, P) into wide_BM; sums of residuals into `bias`. */
static void probability_block(const float *residual, const i64 *label, const float *sample_weight, i64 rows,
                              const ThreadBuffer *buffer, double *bias, i64 K, i64 P, i64 N) {
    for (i64 k = 0; k < K; k++) {
        vec sum = {0};
        for (i64 i = 0; i < rows; i += LANES) {
            i64 left = rows - i;
            ivec here = labels_of(label + i, left) == (int32_t)k;
            vec r = load(residual + k * N + i, left), p = chosen(here, r + 1.0f, r);
            vec weights = weights_of(sample_weight, i, left);
            sum += weights * r;
            *(loose_vec *)(buffer->value_MB + k * BLOCK + i) = weights * p;
            *(loose_vec *)(buffer->scores_MB + k * BLOCK + i) = p;
        }
        bias[k] += total(sum);
    }
    for (i64 i = 0; i < rows; i += 4)
        for (i64 k = 0; k < K; k++)
            for (int row = 0; row < 4; row++) buffer->wide_BM[(i + row) * P + k] = buffer->scores_MB[k * BLOCK + i + row];
}

/* Mean p p' (K, P), P = K rounded up to 32, and mean residuals (threads, K), to be added up, of residuals (K, N). */
void softmax_moments(const float *residual, const i64 *label, const float *sample_weight, double scale, double *joint,
                     double *bias, char *workspace, i64 K, i64 N) {
    i64 P = rounded(K, 32);
#pragma omp parallel
    {
        ThreadBuffer mine = thread_buffer(workspace, omp_get_thread_num(), K, P);
        double *sum = bias + omp_get_thread_num() * K;
        i64 since = 0;
        clear(&mine, K, P, N);
        memset(mine.wide_BM, 0, BLOCK * P * sizeof(float));
        memset(sum, 0, K * sizeof(double));
#pragma omp for schedule(static)
        for (i64 n = 0; n < N; n += BLOCK) {
            i64 rows = min(BLOCK, N - n);
            probability_block(residual + n, label + n, weights_from(sample_weight, n), rows, &mine, sum, K, P, N);
            gather_block(mine.wide_BM, rows, &mine, K, P);
            if (N > FLUSH && (since += BLOCK) == FLUSH) flush(&mine, K, P), since = 0;
        }
        for (i64 k = 0; k < K; k++) sum[k] *= scale;
#pragma omp for schedule(static)
        for (i64 k = 0; k < K; k++) sum_threads(workspace, k, scale, joint + k * P, K, P, N);
    }
}

/* exp of what is <= 0, to 1e-7 of it (Cephes' polynomial); 0 below -87. */
static inline vec exponential(vec x) {
    ivec tiny = x < -87.0f;
    x = larger(x, all(-87));
    vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounded: no bits are left for fractions in between */
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec sum = all(1.9875691500e-4f);
    static const float factors[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 0.5f};
    for (int i = 0; i < 5; i++) sum = sum * r + factors[i];
    sum = sum * (r * r) + r + 1.0f;
    ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;
    return (vec)((ivec)(sum * (vec)power) & ~tiny);
}

/* Losses (S, N) and residuals (S, K, N) of scores (S, K, N), from score differences: losses.py has the formula. */
void softmax_evaluate(const float *score, const i64 *label, float *loss, float *residual, i64 S, i64 K, i64 N) {
    i64 groups = (N + LANES - 1) / LANES;
#pragma omp parallel for schedule(static)
    for (i64 g = 0; g < S * groups; g++) {
        i64 s = g / groups, n = g % groups * LANES, left = N - n;
        ivec y = labels_of(label + n, left);
        const float *z = score + s * K * N + n;
        float *r = residual + s * K * N + n;
        vec at_label = at_labels(z, N, y), top = {0}, others = {0};
        for (i64 k = 0; k < K; k++) top = larger(load(z + k * N, left) - at_label, top);
        for (i64 k = 0; k < K; k++) {
            vec e = exponential(load(z + k * N, left) - at_label - top);
            e = (vec)((ivec)e & (y != (int32_t)k));
            others += e;
            store(r + k * N, e, left);
        }
        vec inverse = 1.0f / (others + exponential(-top)), truth = -others * inverse;
        for (i64 k = 0; k < K; k++)
            store(r + k * N, chosen(y == (int32_t)k, truth, load(r + k * N, left) * inverse), left);
        for (i64 i = 0; i < min(LANES, left); i++) loss[s * N + n + i] = top[i] + log1pf(others[i] + expm1f(-top[i]));
    }
}

/* At first + sum_m at_m (other_m - first), scores (K, N): weighted sums over samples of the softmax loss, of its
 * gradient (OTHERS) and Hessian (OTHERS, OTHERS; the lower triangle) by `at`; out has them one after the other for each
 * thread, to be added up. All from differences to the true class, whose own terms are then 0. */
void softmax_space(const float *first, const float *const *other, const double *at, const i64 *label,
                   const float *sample_weight, double scale, double *out, i64 K, i64 N) {
    enum { SUMS = 1 + OTHERS + OTHERS * OTHERS };
#pragma omp parallel
    {
        vec *point = aligned_alloc(64, rounded(K * sizeof *point, 64));
        double *sum = out + omp_get_thread_num() * SUMS;
        memset(sum, 0, SUMS * sizeof(double));
#pragma omp for schedule(static)
        for (i64 n = 0; n < N; n += LANES) {
            i64 left = N - n;
            ivec y = labels_of(label + n, left);
            vec at_label = at_labels(first + n, N, y), label_move[OTHERS], top = {0}, others = {0};
            vec gradient[OTHERS], hessian[OTHERS][OTHERS], weights = weights_of(sample_weight, n, left);
            for (int a = 0; a < OTHERS; a++) {
                label_move[a] = at_labels(other[a] + n, N, y) - at_label;
                gradient[a] = (vec){0};
                for (int b = 0; b <= a; b++) hessian[a][b] = (vec){0};
            }
            for (i64 k = 0; k < K; k++) {
                vec start = load(first + k * N + n, left), z = start - at_label;
                for (int a = 0; a < OTHERS; a++)
                    z += (load(other[a] + k * N + n, left) - start - label_move[a]) * (float)at[a];
                point[k] = z;
                top = larger(z, top);
            }
            for (i64 k = 0; k < K; k++) {
                vec e = (vec)((ivec)exponential(point[k] - top) & (y != (int32_t)k));
                others += e;
                point[k] = e;
            }
            vec inverse = (vec)((ivec)(1.0f / (others + exponential(-top))) & (y >= 0));
            for (i64 k = 0; k < K; k++) {
                vec p = point[k] * inverse, start = load(first + k * N + n, left), move[OTHERS];
                for (int a = 0; a < OTHERS; a++) {
                    move[a] = load(other[a] + k * N + n, left) - start - label_move[a];
                    vec weighted = p * move[a];
                    gradient[a] += weighted;
                    for (int b = 0; b <= a; b++) hessian[a][b] += weighted * move[b];
                }
            }
            for (i64 i = 0; i < min(LANES, left); i++)
                sum[0] += weights[i] * (top[i] + log1pf(others[i] + expm1f(-top[i])));
            for (int a = 0; a < OTHERS; a++) {
                sum[1 + a] += total(weights * gradient[a]);
                for (int b = 0; b <= a; b++)
                    sum[1 + OTHERS + a * OTHERS + b] += total(weights * (hessian[a][b] - gradient[a] * gradient[b]));
            }
        }
        for (int i = 0; i < SUMS; i++) sum[i] *= scale;
        free(point);
    }
}

enum { GRAM_ROWS = 3, GRAM_COLUMNS = 4, HALF = LANES / 2 };

/* Inner products of 3 rows with 4, (M, M), += those of so many of their columns. */
static void gram_tile(const double *left, const double *right, i64 depth, double *out, i64 M) {
    dvec sum[GRAM_ROWS][GRAM_COLUMNS] = {0};
    for (i64 r = 0; r < depth; r += HALF)
        for (int i = 0; i < GRAM_ROWS; i++)
            for (int j = 0; j < GRAM_COLUMNS; j++)
                sum[i][j] += *(const dvec *)(left + i * DEEP + r) * *(const dvec *)(right + j * DEEP + r);
    for (int i = 0; i < GRAM_ROWS; i++)
        for (int j = 0; j < GRAM_COLUMNS; j++)
            for (int lane = 0; lane < HALF; lane++) out[i * M + j] += sum[i][j][lane];
}

/* gram (K, M, M) = A D^-1 A' for each class, A the M rows of features (N, R) at `index` (K, M), D^-1 in `inverse`. */
void low_rank_gram(const float *features, const i64 *index, const float *inverse, double *gram, i64 K, i64 M, i64 R) {
    i64 P = rounded(M, GRAM_ROWS * GRAM_COLUMNS);
#pragma omp parallel
    {
        double *scaled = calloc(2 * P * DEEP + P * P, sizeof(double)), *rows = scaled + P * DEEP, *sum = rows + P * DEEP;
#pragma omp for schedule(static)
        for (i64 k = 0; k < K; k++) {
            memset(sum, 0, P * P * sizeof(double));
            for (i64 first = 0; first < R; first += DEEP) {
                i64 depth = min(DEEP, R - first);
                for (i64 m = 0; m < M; m++) {
                    const float *from = features + index[k * M + m] * R + first, *diagonal = inverse + k * R + first;
                    for (i64 r = 0; r < depth; r++) rows[m * DEEP + r] = from[r];
                    for (i64 r = 0; r < depth; r++) scaled[m * DEEP + r] = (double)from[r] * diagonal[r];
                }
                for (i64 m = 0; m < P; m += GRAM_ROWS)
                    for (i64 other = 0; other < min(P, m + GRAM_ROWS); other += GRAM_COLUMNS)
                        gram_tile(scaled + m * DEEP, rows + other * DEEP, depth, sum + m * P + other, P);
            }
            for (i64 m = 0; m < M; m++)
                for (i64 other = 0; other <= m; other++)
                    gram[(k * M + m) * M + other] = gram[(k * M + other) * M + m] = sum[m * P + other];
        }
        free(scaled);
    }
}

enum { TOGETHER = 4 }; /* rows that are read together */

/* Inner products of rows with one, a few rows at a time; a row that is not there is the last once more. */
static void project_rows(const float *features, const i64 *index, const float *with, double *out, i64 M, i64 R) {
    for (i64 m = 0; m < M; m += TOGETHER) {
        const float *row[TOGETHER];
        vec sum[TOGETHER][2] = {0};
        for (int i = 0; i < TOGETHER; i++) row[i] = features + index[min(m + i, M - 1)] * R;
        for (i64 r = 0; r < R; r += WIDE)
            for (int v = 0; v < 2; v++)
                for (int i = 0; i < TOGETHER; i++)
                    sum[i][v] += load(row[i] + r + v * LANES, LANES) * load(with + r + v * LANES, LANES);
        for (int i = 0; i < TOGETHER && m + i < M; i++) out[m + i] = total(sum[i][0] + sum[i][1]);
    }
}

/* out += factors x rows. */
static void add_rows(const float *features, const i64 *index, const double *factor, float *out, i64 M, i64 R) {
    for (i64 m = 0; m < M; m += TOGETHER) {
        const float *row[TOGETHER];
        float by[TOGETHER];
        for (int i = 0; i < TOGETHER; i++)
            row[i] = features + index[min(m + i, M - 1)] * R, by[i] = m + i < M ? (float)factor[m + i] : 0;
        for (i64 r = 0; r < R; r += LANES) {
            vec sum = load(out + r, LANES);
            for (int i = 0; i < TOGETHER; i++) sum += load(row[i] + r, LANES) * by[i];
            store(out + r, sum, LANES);
        }
    }
}

/* (D^-1 - D^-1 A' inner A D^-1) residual for each class, (S, K, R): preconditioners/low_rank.py has the formula. */
void low_rank_solve(const float *features, const i64 *index, const float *inverse, const double *inner,
                    const float *residual, float *out, i64 S, i64 K, i64 M, i64 R) {
#pragma omp parallel for schedule(static)
    for (i64 k = 0; k < K; k++)
        for (i64 s = 0; s < S; s++) {
            const float *diagonal = inverse + k * R, *from = residual + (s * K + k) * R;
            float *to = out + (s * K + k) * R, back[R];
            double projected[M], solved[M];
            for (i64 r = 0; r < R; r++) to[r] = diagonal[r] * from[r], back[r] = 0;
            project_rows(features, index + k * M, to, projected, M, R);
            memset(solved, 0, M * sizeof(double));
            for (i64 other = 0; other < M; other++) /* the inner matrix is symmetric */
                for (i64 m = 0; m < M; m++) solved[m] += inner[(k * M + other) * M + m] * projected[other];
            add_rows(features, index + k * M, solved, back, M, R);
            for (i64 r = 0; r < R; r++) to[r] -= diagonal[r] * back[r];
        }
}
