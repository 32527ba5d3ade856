/* Passes of the probe's solver over features in memory, on x86 processors with AMX bfloat16: see kernels.py.
 *
 * A float32 is kept as high + low, two bfloat16 with 16 bits between them. A product of two such matrices is
 * high x high + high x low + low x high, summed in float32 by AMX, which runs at many times float32's speed.
 *
 * Shapes: N samples, K classes, S strengths, M = S x K columns of scores, R columns of features, a multiple of 32.
 * Features are (N, R), rows up to the next multiple of 32 zero; all else is class-major: scores (M, N), weights (M, R).
 * A tile is 16 x 16 float32 or 16 x 32 bfloat16. Each thread takes blocks of rows with what it needs in its own cache.
 */
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && __GNUC__ >= 12

#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16,fma")

typedef uint16_t bfloat16;
typedef int64_t i64;

enum {
    TILE = 16,        /* rows of a tile, and float32 in one of its rows */
    PAIR = 32,        /* bfloat16 in a row of a tile; rows and columns are taken by as many */
    OTHERS = 3,       /* points besides the first that span a space */
    BLOCK = 128,      /* rows of features worked on at once: 0.3 MB of 1,280 dimensions */
    FLUSH = 4096,     /* rows after which float32 sums are added to float64 ones */
};

/* The memory that a thread works in: M rounded up to 32, B = BLOCK. */
typedef struct {
    double *total_MR; /* sums over all rows but the last FLUSH */
    float *sum_MR;
    bfloat16 *high_MB, *low_MB; /* values to multiply; the columns that pad M stay zero */
    float *scores_MB;
    bfloat16 *high_BM, *low_BM;
} ThreadBuffer;

static i64 min(i64 a, i64 b) { return a < b ? a : b; }
static i64 padded(i64 count) { return (count + PAIR - 1) / PAIR * PAIR; }
/* Tiles that the next PAIR columns fill. */
static int tiles_from(i64 m, i64 M) { return m + TILE < M ? 2 : 1; }

static i64 weight_bytes(i64 M, i64 R) { return padded(M) * R * sizeof(bfloat16); }
static i64 buffer_bytes(i64 M, i64 R) {
    return padded(M) * (BLOCK * (sizeof(float) + 4 * sizeof(bfloat16)) + R * (sizeof(float) + sizeof(double)));
}

/* Bytes of the workspace that the functions below take, aligned to 64. */
i64 workspace_bytes(i64 M, i64 R) { return 2 * weight_bytes(M, R) + omp_get_max_threads() * buffer_bytes(M, R); }

static ThreadBuffer thread_buffer(char *workspace, int thread, i64 M, i64 R) {
    i64 columns = padded(M);
    ThreadBuffer mine;
    mine.total_MR = (double *)(workspace + 2 * weight_bytes(M, R) + thread * buffer_bytes(M, R));
    mine.sum_MR = (float *)(mine.total_MR + columns * R);
    mine.high_MB = (bfloat16 *)(mine.sum_MR + columns * R);
    mine.low_MB = mine.high_MB + columns * BLOCK;
    mine.scores_MB = (float *)(mine.low_MB + columns * BLOCK);
    mine.high_BM = (bfloat16 *)(mine.scores_MB + columns * BLOCK);
    mine.low_BM = mine.high_BM + columns * BLOCK;
    return mine;
}

static void clear(const ThreadBuffer *buffer, i64 M, i64 R, i64 rows) {
    if (rows > FLUSH) memset(buffer->total_MR, 0, M * R * sizeof(double));
    memset(buffer->sum_MR, 0, (char *)buffer->scores_MB - (char *)buffer->sum_MR);
}

/* Ask Linux for AMX, once a process (Documentation/arch/x86/xstate.rst); returns 0 where it is granted. */
int request_amx(void) { return (int)syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */); }

/* Number of threads that each leave their sums in the output of softmax_space and softmax_moments. */
int num_threads(void) { return omp_get_max_threads(); }

static void open_tiles(void) {
    struct { uint8_t palette, start, reserved[14]; uint16_t row_bytes[16]; uint8_t rows[16]; } shape = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) shape.row_bytes[tile] = 64, shape.rows[tile] = TILE;
    _tile_loadconfig(&shape);
}

static inline __m256i to_bfloat16(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
static inline __m512 to_float32(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
static inline __m512 widened(const bfloat16 *x) { return to_float32(_mm256_loadu_si256((const __m256i *)x)); }
static inline __m256i remainder_bfloat16(__m512 x, __m256i high) {
    return to_bfloat16(_mm512_sub_ps(x, to_float32(high)));
}
static inline __m512d first_half(__m512 x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
static inline __m512d last_half(__m512 x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }
static inline __mmask16 lanes(i64 left) { return left >= TILE ? 0xffff : left <= 0 ? 0 : (1u << left) - 1; }

/* Labels of 16 samples as int32; labels of lanes outside `in` are 0. */
static inline __m512i labels16(const i64 *label, __mmask16 in) {
    __m256i first = _mm512_cvtepi64_epi32(_mm512_maskz_loadu_epi64(in & 0xff, label));
    __m256i last = _mm512_cvtepi64_epi32(_mm512_maskz_loadu_epi64(in >> 8, label + 8));
    return _mm512_inserti64x4(_mm512_castsi256_si512(first), last, 1);
}

static inline __mmask16 of_class(__mmask16 in, __m512i labels, i64 k) {
    return _mm512_mask_cmpeq_epi32_mask(in, labels, _mm512_set1_epi32((int)k));
}
/* The weights of the samples from n on; NULL where all count alike. */
static inline const float *weights_from(const float *sample_weight, i64 n) {
    return sample_weight ? sample_weight + n : NULL;
}

static inline __m512 weight16(const float *sample_weight, i64 at, __mmask16 in) {
    return sample_weight ? _mm512_maskz_loadu_ps(in, sample_weight + at) : _mm512_set1_ps(1);
}

/* The values (K, stride) of 16 samples at their labels. */
static inline __m512 label_value16(const float *value, i64 stride, const i64 *label, __mmask16 in) {
    __m256 value_at[2];
    for (int half = 0; half < 2; half++) {
        __mmask8 here = in >> (8 * half);
        __m512i lane = _mm512_add_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64(8 * half));
        __m512i row = _mm512_mullo_epi64(_mm512_maskz_loadu_epi64(here, label + 8 * half), _mm512_set1_epi64(stride));
        __m512i at = _mm512_add_epi64(row, lane);
        value_at[half] = _mm512_mask_i64gather_ps(_mm256_setzero_ps(), here, at, value, sizeof(float));
    }
    return _mm512_insertf32x8(_mm512_castps256_ps512(value_at[0]), value_at[1], 1);
}

/* Split features (N, R) into high and low (padded N, R). */
void split(const float *features, bfloat16 *high, bfloat16 *low, i64 N, i64 R) {
#pragma omp parallel for schedule(static)
    for (i64 n = 0; n < padded(N); n++)
        for (i64 r = n * R; r < (n + 1) * R; r += 16) {
            __m512 x = n < N ? _mm512_loadu_ps(features + r) : _mm512_setzero_ps();
            __m256i x_high = to_bfloat16(x);
            _mm256_storeu_si256((__m256i *)(high + r), x_high);
            _mm256_storeu_si256((__m256i *)(low + r), remainder_bfloat16(x, x_high));
        }
}

/* Transpose a tile of 16 x 16 float32. */
static inline void transpose(const float *from, i64 from_stride, float *to, i64 stride) {
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_load_ps(from + i * from_stride);
    for (int i = 0; i < 8; i++) {
        b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            __m512d even = (__m512d)b[4 * i + j], odd = (__m512d)b[4 * i + 2 + j];
            a[4 * i + 2 * j] = (__m512)_mm512_unpacklo_pd(even, odd);
            a[4 * i + 2 * j + 1] = (__m512)_mm512_unpackhi_pd(even, odd);
        }
    for (int i = 0; i < 8; i++) {
        int at = i / 4 * 8 + i % 4;
        b[at] = _mm512_shuffle_f32x4(a[at], a[at + 4], 0x88);
        b[at + 4] = _mm512_shuffle_f32x4(a[at], a[at + 4], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        _mm512_storeu_ps(to + i * stride, _mm512_shuffle_f32x4(b[i], b[i + 8], 0x88));
        _mm512_storeu_ps(to + (i + 8) * stride, _mm512_shuffle_f32x4(b[i], b[i + 8], 0xdd));
    }
}

/* Pack weights (M, R) as AMX reads a right-hand side: tiles [M/16][R/32] of [pairs of R][M][2]. A team divides them. */
static void pack(const float *weight, i64 M, i64 R, bfloat16 *high, bfloat16 *low) {
#pragma omp for schedule(static)
    for (i64 tile = 0; tile < padded(M) / TILE * (R / PAIR); tile++) {
        i64 m = tile / (R / PAIR) * TILE, r = tile % (R / PAIR) * PAIR;
        bfloat16 rows[2][TILE][PAIR] __attribute__((aligned(64)));
        for (int i = 0; i < TILE; i++)
            for (int half = 0; half < PAIR; half += TILE) {
                __m512 x = m + i < M ? _mm512_loadu_ps(weight + (m + i) * R + r + half) : _mm512_setzero_ps();
                __m256i x_high = to_bfloat16(x);
                _mm256_storeu_si256((__m256i *)(rows[0][i] + half), x_high);
                _mm256_storeu_si256((__m256i *)(rows[1][i] + half), remainder_bfloat16(x, x_high));
            }
        /* A pair is transposed as one float32. */
        transpose((const float *)rows[0], TILE, (float *)(high + tile * TILE * PAIR), TILE);
        if (low) transpose((const float *)rows[1], TILE, (float *)(low + tile * TILE * PAIR), TILE);
    }
}

/* Tiles 0 to 3 += one or two tiles on the left times one or two on the right. */
#define LEFT(count, a, b, stride) do { _tile_loadd(4, a, stride); if (count > 1) _tile_loadd(5, b, stride); } while (0)
#define RIGHT(count, c, d, stride) do { _tile_loadd(6, c, stride); if (count > 1) _tile_loadd(7, d, stride); } while (0)
#define MULTIPLY(left, right) \
    do { \
        _tile_dpbf16ps(0, 4, 6); \
        if (left > 1) _tile_dpbf16ps(1, 5, 6); \
        if (right > 1) _tile_dpbf16ps(2, 4, 7); \
        if (left > 1 && right > 1) _tile_dpbf16ps(3, 5, 7); \
    } while (0)

/* scores (M, BLOCK) of a block of rows, from packed weights; without `low` of the features from high x high alone. */
static void score_block(const bfloat16 *high, const bfloat16 *low, i64 rows, const bfloat16 *weight_high,
                        const bfloat16 *weight_low, float *scores_MB, i64 M, i64 R) {
    float sum[4][TILE * TILE] __attribute__((aligned(64)));
    i64 along = TILE * R; /* from a tile of rows or of weights to the next */
    for (i64 n = 0; n < rows; n += PAIR)
        for (i64 m = 0; m < padded(M); m += PAIR) {
            const bfloat16 *x = high + n * R, *w = weight_high + m * R;
            int tiles = tiles_from(m, M);
            _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
            for (i64 r = 0; r < R; r += PAIR) {
                LEFT(2, x + r, x + along + r, 2 * R);
                if (low) {
                    const bfloat16 *w_low = weight_low + m * R + r * TILE;
                    RIGHT(tiles, w_low, w_low + along, 64);
                    MULTIPLY(2, tiles);
                }
                RIGHT(tiles, w + r * TILE, w + along + r * TILE, 64);
                MULTIPLY(2, tiles);
                if (low) {
                    const bfloat16 *x_low = low + n * R + r;
                    LEFT(2, x_low, x_low + along, 2 * R);
                    MULTIPLY(2, tiles);
                }
            }
            _tile_stored(0, sum[0], 64); _tile_stored(1, sum[1], 64);
            _tile_stored(2, sum[2], 64); _tile_stored(3, sum[3], 64);
            for (int i = 0; i < 2 * tiles; i++)
                transpose(sum[i], TILE, scores_MB + (m + i / 2 * TILE) * BLOCK + n + i % 2 * TILE, BLOCK);
        }
}

/* 32 columns of rows as a right-hand side: [rows/32][2] tiles of [pairs of rows][16 columns][2]. */
static inline void interleave(const bfloat16 *x, i64 rows, i64 R, bfloat16 *out) {
    __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5,
                                     36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    __m512i last = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    for (i64 n = 0; n < rows; n += 2) {
        __m512i even = _mm512_loadu_si512(x + n * R), odd = _mm512_loadu_si512(x + (n + 1) * R);
        bfloat16 *at = out + n / PAIR * PAIR * PAIR + n % PAIR * TILE;
        _mm512_store_si512(at, _mm512_permutex2var_epi16(even, first, odd));
        _mm512_store_si512(at + TILE * PAIR, _mm512_permutex2var_epi16(even, last, odd));
    }
}

/* sum (M, R) += values (M, BLOCK) of a block of rows times the features; without `low` from high x high alone. */
static void gather_block(const bfloat16 *high, const bfloat16 *low, i64 rows, const ThreadBuffer *buffer, i64 M,
                         i64 R) {
    bfloat16 right_high[BLOCK * PAIR] __attribute__((aligned(64)));
    bfloat16 right_low[BLOCK * PAIR] __attribute__((aligned(64)));
    for (i64 r = 0; r < R; r += PAIR) {
        interleave(high + r, rows, R, right_high);
        if (low) interleave(low + r, rows, R, right_low);
        for (i64 m = 0; m < padded(M); m += PAIR) {
            int tiles = tiles_from(m, M);
            float *out = buffer->sum_MR + m * R + r, *below = out + TILE * R;
            _tile_loadd(0, out, 4 * R); _tile_loadd(1, below, 4 * R);
            _tile_loadd(2, out + TILE, 4 * R); _tile_loadd(3, below + TILE, 4 * R);
            for (i64 n = 0; n < rows; n += PAIR) {
                const bfloat16 *v = buffer->high_MB + m * BLOCK + n, *x = right_high + n * PAIR;
                const bfloat16 *v_low = buffer->low_MB + m * BLOCK + n, *x_low = right_low + n * PAIR;
                LEFT(tiles, v, v + TILE * BLOCK, 2 * BLOCK);
                if (low) {
                    RIGHT(2, x_low, x_low + TILE * PAIR, 64);
                    MULTIPLY(tiles, 2);
                }
                RIGHT(2, x, x + TILE * PAIR, 64);
                MULTIPLY(tiles, 2);
                if (low) {
                    LEFT(tiles, v_low, v_low + TILE * BLOCK, 2 * BLOCK);
                    MULTIPLY(tiles, 2);
                }
            }
            _tile_stored(0, out, 4 * R); _tile_stored(1, below, 4 * R);
            _tile_stored(2, out + TILE, 4 * R); _tile_stored(3, below + TILE, 4 * R);
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
void scores(const bfloat16 *high, const bfloat16 *low, const float *weight, float *out, char *workspace, i64 M, i64 N,
            i64 R) {
    bfloat16 *weight_high = (bfloat16 *)workspace, *weight_low = (bfloat16 *)(workspace + weight_bytes(M, R));
#pragma omp parallel
    {
        ThreadBuffer mine = thread_buffer(workspace, omp_get_thread_num(), M, R);
        open_tiles();
        pack(weight, M, R, weight_high, weight_low);
#pragma omp for schedule(static)
        for (i64 n = 0; n < N; n += BLOCK) {
            i64 rows = min(BLOCK, N - n);
            score_block(high + n * R, low + n * R, padded(rows), weight_high, weight_low, mine.scores_MB, M, R);
            for (i64 m = 0; m < M; m++) memcpy(out + m * N + n, mine.scores_MB + m * BLOCK, rows * sizeof(float));
        }
        _tile_release();
    }
}

static inline void store_split(const ThreadBuffer *buffer, i64 at, __m512 x) {
    __m256i high = to_bfloat16(x);
    _mm256_storeu_si256((__m256i *)(buffer->high_MB + at), high);
    _mm256_storeu_si256((__m256i *)(buffer->low_MB + at), remainder_bfloat16(x, high));
}

/* (diag(p) - p p') u of a block, u in its scores, times each sample's weight, rounded: losses.py has the formula. */
static void hessian_block(const float *residual, const i64 *label, const float *sample_weight, i64 rows,
                          const ThreadBuffer *buffer, i64 K, i64 N) {
    for (i64 i = 0; i < padded(rows); i += 16) {
        __mmask16 in = lanes(rows - i);
        __m512i y = labels16(label + i, in);
        const float *u = buffer->scores_MB + i, *r = residual + i;
        __m512 mean = _mm512_setzero_ps(), weights = weight16(sample_weight, i, in);
        for (i64 k = 0; k < K; k++)
            mean = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(in, r + k * N), _mm512_load_ps(u + k * BLOCK), mean);
        __m512 base = _mm512_add_ps(label_value16(u, BLOCK, label + i, in), mean);
        for (i64 k = 0; k < K; k++) {
            __m512 change = _mm512_sub_ps(_mm512_load_ps(u + k * BLOCK), base);
            change = _mm512_mul_ps(change, _mm512_maskz_loadu_ps(in, r + k * N));
            change = _mm512_mask_sub_ps(change, of_class(in, y, k), change, mean);
            __m256i *out = (__m256i *)(buffer->high_MB + k * BLOCK + i);
            _mm256_storeu_si256(out, to_bfloat16(_mm512_mul_ps(change, weights)));
        }
    }
}

/* Hessian of the mean softmax loss times directions (S, K, R), at bfloat16: one pass. Residuals (S, K, N). The
 * mean over classes is rounding and is subtracted. */
void softmax_hessian(const bfloat16 *high, const float *residual, const i64 *label, const float *sample_weight,
                     double scale, const float *direction, float *out, char *workspace, i64 S, i64 K, i64 N, i64 R) {
    i64 M = S * K;
    bfloat16 *weight = (bfloat16 *)workspace;
#pragma omp parallel
    {
        ThreadBuffer mine = thread_buffer(workspace, omp_get_thread_num(), M, R);
        double row[R];
        clear(&mine, M, R, 0);
        open_tiles();
        pack(direction, M, R, weight, NULL);
#pragma omp for schedule(static)
        for (i64 n = 0; n < N; n += BLOCK) {
            i64 rows = min(BLOCK, N - n);
            score_block(high + n * R, NULL, padded(rows), weight, NULL, mine.scores_MB, M, R);
            for (i64 s = 0; s < S; s++) {
                ThreadBuffer of_strength = mine;
                of_strength.scores_MB += s * K * BLOCK, of_strength.high_MB += s * K * BLOCK;
                const float *block = residual + s * K * N + n, *weights = weights_from(sample_weight, n);
                hessian_block(block, label + n, weights, rows, &of_strength, K, N);
            }
            gather_block(high + n * R, NULL, padded(rows), &mine, M, R);
        }
        _tile_release();
#pragma omp for schedule(static)
        for (i64 m = 0; m < M; m++) {
            sum_threads(workspace, m, scale, row, M, R, 0);
            for (i64 r = 0; r < R; r++) out[m * R + r] = (float)row[r];
        }
#pragma omp for schedule(static)
        for (i64 piece = 0; piece < S * (R / TILE); piece++) {
            float *at = out + piece / (R / TILE) * K * R + piece % (R / TILE) * TILE;
            __m512 mean = _mm512_setzero_ps();
            for (i64 k = 0; k < K; k++) mean = _mm512_add_ps(mean, _mm512_loadu_ps(at + k * R));
            mean = _mm512_div_ps(mean, _mm512_set1_ps((float)K));
            for (i64 k = 0; k < K; k++) _mm512_storeu_ps(at + k * R, _mm512_sub_ps(_mm512_loadu_ps(at + k * R), mean));
        }
    }
}

static void value_block(const float *value, i64 rows, const ThreadBuffer *buffer, i64 K, i64 N) {
    for (i64 k = 0; k < K; k++)
        for (i64 i = 0; i < padded(rows); i += TILE)
            store_split(buffer, k * BLOCK + i, _mm512_maskz_loadu_ps(lanes(rows - i), value + k * N + i));
}

/* r + (diag(p) - p p') c of a block, c a number for each class, times each sample's weight. */
static void shift_block(const float *residual, const float *shift, const i64 *label, const float *sample_weight,
                        i64 rows, const ThreadBuffer *buffer, i64 K, i64 N) {
    for (i64 i = 0; i < padded(rows); i += TILE) {
        __mmask16 in = lanes(rows - i);
        __m512i y = labels16(label + i, in);
        __m512 mean = _mm512_setzero_ps(), weights = weight16(sample_weight, i, in);
        for (i64 k = 0; k < K; k++)
            mean = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(in, residual + k * N + i), _mm512_set1_ps(shift[k]), mean);
        __m512 base = _mm512_add_ps(_mm512_i32gather_ps(y, shift, sizeof(float)), mean);
        for (i64 k = 0; k < K; k++) {
            __m512 r = _mm512_maskz_loadu_ps(in, residual + k * N + i);
            __m512 moved = _mm512_fmadd_ps(_mm512_sub_ps(_mm512_set1_ps(shift[k]), base), r, r);
            moved = _mm512_mask_sub_ps(moved, of_class(in, y, k), moved, mean);
            store_split(buffer, k * BLOCK + i, _mm512_mul_ps(moved, weights));
        }
    }
}

/* out (S, K, R) = scale x values (S, K, N) x features. With shifts (S, K) the values are the residuals of a softmax
 * loss, and out is its mean's gradient once biases have moved by them. */
void gather(const bfloat16 *high, const bfloat16 *low, const float *value, const float *shift, const i64 *label,
            const float *sample_weight, double scale, double *out, char *workspace, i64 S, i64 K, i64 N, i64 R) {
    i64 M = S * K;
#pragma omp parallel
    {
        ThreadBuffer mine = thread_buffer(workspace, omp_get_thread_num(), M, R);
        i64 since = 0;
        clear(&mine, M, R, N);
        open_tiles();
#pragma omp for schedule(static)
        for (i64 n = 0; n < N; n += BLOCK) {
            i64 rows = min(BLOCK, N - n);
            for (i64 s = 0; s < S; s++) {
                ThreadBuffer of_strength = mine;
                of_strength.high_MB += s * K * BLOCK, of_strength.low_MB += s * K * BLOCK;
                const float *block = value + s * K * N + n, *weights = weights_from(sample_weight, n);
                if (shift) shift_block(block, shift + s * K, label + n, weights, rows, &of_strength, K, N);
                else value_block(block, rows, &of_strength, K, N);
            }
            gather_block(high + n * R, low + n * R, padded(rows), &mine, M, R);
            if (N > FLUSH && (since += BLOCK) == FLUSH) flush(&mine, M, R), since = 0;
        }
        _tile_release();
#pragma omp for schedule(static)
        for (i64 m = 0; m < M; m++) sum_threads(workspace, m, scale, out + m * R, M, R, N);
    }
}

/* p of a block: times its sample's weight into high_MB and low_MB, as rows (BLOCK, padded K) into high_BM and low_BM;
 * sums of residuals into `bias`. */
static void probability_block(const float *residual, const i64 *label, const float *sample_weight, i64 rows,
                              const ThreadBuffer *buffer, double *bias, i64 K, i64 N) {
    float transposed[TILE * TILE] __attribute__((aligned(64)));
    for (i64 k = 0; k < K; k++) {
        __m512 sum = _mm512_setzero_ps();
        for (i64 i = 0; i < padded(rows); i += TILE) {
            __mmask16 in = lanes(rows - i), labelled = of_class(in, labels16(label + i, in), k);
            __m512 r = _mm512_maskz_loadu_ps(in, residual + k * N + i);
            __m512 p = _mm512_mask_add_ps(r, labelled, r, _mm512_set1_ps(1));
            __m512 weights = weight16(sample_weight, i, in);
            sum = _mm512_fmadd_ps(weights, r, sum);
            store_split(buffer, k * BLOCK + i, _mm512_mul_ps(weights, p));
            _mm512_store_ps(buffer->scores_MB + k * BLOCK + i, p);
        }
        bias[k] += _mm512_reduce_add_ps(sum);
    }
    for (i64 k = 0; k < padded(K); k += TILE)
        for (i64 i = 0; i < padded(rows); i += TILE) {
            transpose(buffer->scores_MB + k * BLOCK + i, BLOCK, transposed, TILE);
            for (int row = 0; row < TILE; row++) {
                __m512 p = _mm512_load_ps(transposed + row * TILE);
                i64 at = (i + row) * padded(K) + k;
                __m256i high = to_bfloat16(p);
                _mm256_storeu_si256((__m256i *)(buffer->high_BM + at), high);
                _mm256_storeu_si256((__m256i *)(buffer->low_BM + at), remainder_bfloat16(p, high));
            }
        }
}

/* Mean p p' (K, padded K) and mean residuals (threads, K), to be added up, of one strength's residuals (K, N). */
void softmax_moments(const float *residual, const i64 *label, const float *sample_weight, double scale, double *joint,
                     double *bias, char *workspace, i64 K, i64 N) {
#pragma omp parallel
    {
        ThreadBuffer mine = thread_buffer(workspace, omp_get_thread_num(), K, padded(K));
        double *sum = bias + omp_get_thread_num() * K;
        i64 since = 0;
        clear(&mine, K, padded(K), N);
        memset(mine.scores_MB, 0, padded(K) * BLOCK * sizeof(float));
        memset(sum, 0, K * sizeof(double));
        open_tiles();
#pragma omp for schedule(static)
        for (i64 n = 0; n < N; n += BLOCK) {
            i64 rows = min(BLOCK, N - n);
            probability_block(residual + n, label + n, weights_from(sample_weight, n), rows, &mine, sum, K, N);
            gather_block(mine.high_BM, mine.low_BM, padded(rows), &mine, K, padded(K));
            if (N > FLUSH && (since += BLOCK) == FLUSH) flush(&mine, K, padded(K)), since = 0;
        }
        _tile_release();
        for (i64 k = 0; k < K; k++) sum[k] *= scale;
#pragma omp for schedule(static)
        for (i64 k = 0; k < K; k++) sum_threads(workspace, k, scale, joint + k * padded(K), K, padded(K), N);
    }
}

/* exp of what is <= 0, to 1e-7 of it (Cephes' polynomial); 0 below -104. */
static inline __m512 exponential(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-104));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    static const float factors[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 0.5f};
    __m512 sum = _mm512_set1_ps(1.9875691500e-4f);
    for (int i = 0; i < 5; i++) sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(factors[i]));
    sum = _mm512_add_ps(_mm512_fmadd_ps(sum, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1));
    return _mm512_scalef_ps(sum, n);
}

/* Losses (S, N) and residuals (S, K, N) of scores (S, K, N), from score differences: losses.py has the formula. */
void softmax_evaluate(const float *score, const i64 *label, float *loss, float *residual, i64 S, i64 K, i64 N) {
    i64 groups = (N + TILE - 1) / TILE;
#pragma omp parallel for schedule(static)
    for (i64 g = 0; g < S * groups; g++) {
        i64 s = g / groups, n = g % groups * TILE;
        __mmask16 in = lanes(N - n);
        __m512i y = labels16(label + n, in);
        const float *z = score + s * K * N + n;
        float *r = residual + s * K * N + n;
        __m512 at_label = label_value16(z, N, label + n, in), top = _mm512_setzero_ps(), others = _mm512_setzero_ps();
        for (i64 k = 0; k < K; k++)
            top = _mm512_max_ps(top, _mm512_sub_ps(_mm512_maskz_loadu_ps(in, z + k * N), at_label));
        for (i64 k = 0; k < K; k++) {
            __m512 margin = _mm512_sub_ps(_mm512_maskz_loadu_ps(in, z + k * N), at_label);
            __mmask16 other = (__mmask16)~of_class(in, y, k);
            __m512 e = _mm512_maskz_mov_ps(other, exponential(_mm512_sub_ps(margin, top)));
            others = _mm512_add_ps(others, e);
            _mm512_mask_storeu_ps(r + k * N, in, e);
        }
        __m512 total = _mm512_add_ps(others, exponential(_mm512_sub_ps(_mm512_setzero_ps(), top)));
        __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1), total);
        __m512 truth = _mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), others), inverse);
        for (i64 k = 0; k < K; k++) {
            __mmask16 here = of_class(in, y, k);
            __m512 p = _mm512_mul_ps(_mm512_maskz_loadu_ps(in, r + k * N), inverse);
            _mm512_mask_storeu_ps(r + k * N, in, _mm512_mask_mov_ps(p, here, truth));
        }
        float tops[TILE], sums[TILE];
        _mm512_storeu_ps(tops, top), _mm512_storeu_ps(sums, others);
        for (i64 i = 0; i < min(TILE, N - n); i++) loss[s * N + n + i] = tops[i] + log1pf(sums[i] + expm1f(-tops[i]));
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
        float(*point)[TILE] = aligned_alloc(64, K * sizeof *point);
        double *sum = out + omp_get_thread_num() * SUMS;
        memset(sum, 0, SUMS * sizeof(double));
#pragma omp for schedule(static)
        for (i64 n = 0; n < N; n += TILE) {
            __mmask16 in = lanes(N - n);
            __m512i y = labels16(label + n, in);
            __m512 at_label = label_value16(first + n, N, label + n, in), label_move[OTHERS];
            __m512 top = _mm512_setzero_ps(), others = top;
            __m512 gradient[OTHERS], hessian[OTHERS][OTHERS], weights = weight16(sample_weight, n, in);
            for (int a = 0; a < OTHERS; a++) {
                label_move[a] = _mm512_sub_ps(label_value16(other[a] + n, N, label + n, in), at_label);
                gradient[a] = _mm512_setzero_ps();
                for (int b = 0; b <= a; b++) hessian[a][b] = _mm512_setzero_ps();
            }
            for (i64 k = 0; k < K; k++) {
                __m512 start = _mm512_maskz_loadu_ps(in, first + k * N + n), z = _mm512_sub_ps(start, at_label);
                for (int a = 0; a < OTHERS; a++) {
                    __m512 move = _mm512_sub_ps(_mm512_maskz_loadu_ps(in, other[a] + k * N + n), start);
                    z = _mm512_fmadd_ps(_mm512_sub_ps(move, label_move[a]), _mm512_set1_ps((float)at[a]), z);
                }
                _mm512_store_ps(point[k], z);
                top = _mm512_max_ps(top, z);
            }
            for (i64 k = 0; k < K; k++) {
                __mmask16 other_class = (__mmask16)~of_class(in, y, k);
                __m512 e = _mm512_maskz_mov_ps(other_class, exponential(_mm512_sub_ps(_mm512_load_ps(point[k]), top)));
                others = _mm512_add_ps(others, e);
                _mm512_store_ps(point[k], e);
            }
            __m512 total = _mm512_add_ps(others, exponential(_mm512_sub_ps(_mm512_setzero_ps(), top)));
            __m512 inverse = _mm512_maskz_div_ps(in, _mm512_set1_ps(1), total);
            for (i64 k = 0; k < K; k++) {
                __m512 p = _mm512_mul_ps(_mm512_load_ps(point[k]), inverse), move[OTHERS];
                __m512 start = _mm512_maskz_loadu_ps(in, first + k * N + n);
                for (int a = 0; a < OTHERS; a++) {
                    move[a] = _mm512_sub_ps(_mm512_maskz_loadu_ps(in, other[a] + k * N + n), start);
                    move[a] = _mm512_sub_ps(move[a], label_move[a]);
                    __m512 weighted = _mm512_mul_ps(p, move[a]);
                    gradient[a] = _mm512_add_ps(gradient[a], weighted);
                    for (int b = 0; b <= a; b++) hessian[a][b] = _mm512_fmadd_ps(weighted, move[b], hessian[a][b]);
                }
            }
            float tops[TILE], sums[TILE], weight_values[TILE];
            _mm512_storeu_ps(tops, top), _mm512_storeu_ps(sums, others), _mm512_storeu_ps(weight_values, weights);
            for (i64 i = 0; i < min(TILE, N - n); i++)
                sum[0] += weight_values[i] * (tops[i] + log1pf(sums[i] + expm1f(-tops[i])));
            for (int a = 0; a < OTHERS; a++) {
                sum[1 + a] += _mm512_reduce_add_ps(_mm512_mul_ps(weights, gradient[a]));
                for (int b = 0; b <= a; b++) {
                    __m512 covariance = _mm512_fnmadd_ps(gradient[a], gradient[b], hessian[a][b]);
                    sum[1 + OTHERS + a * OTHERS + b] += _mm512_reduce_add_ps(_mm512_mul_ps(weights, covariance));
                }
            }
        }
        for (int i = 0; i < SUMS; i++) sum[i] *= scale;
        free(point);
    }
}

/* gram (K, M, M) = A D^-1 A' for each class, A the M rows of features (N, R) at `index` (K, M), D^-1 in `inverse`. */
void low_rank_gram(const bfloat16 *high, const i64 *index, const float *inverse, double *gram, i64 K, i64 M, i64 R) {
#pragma omp parallel for schedule(static)
    for (i64 k = 0; k < K; k++)
        for (i64 m = 0; m < M; m++) {
            double scaled[R], *out = gram + k * M * M;
            for (i64 r = 0; r < R; r += TILE) {
                __m512 row = widened(high + index[k * M + m] * R + r), diagonal = _mm512_loadu_ps(inverse + k * R + r);
                _mm512_storeu_pd(scaled + r, _mm512_mul_pd(first_half(row), first_half(diagonal)));
                _mm512_storeu_pd(scaled + r + 8, _mm512_mul_pd(last_half(row), last_half(diagonal)));
            }
            for (i64 other = 0; other <= m; other++) {
                __m512d sum[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
                for (i64 r = 0; r < R; r += TILE) {
                    __m512 row = widened(high + index[k * M + other] * R + r);
                    sum[0] = _mm512_fmadd_pd(first_half(row), _mm512_loadu_pd(scaled + r), sum[0]);
                    sum[1] = _mm512_fmadd_pd(last_half(row), _mm512_loadu_pd(scaled + r + 8), sum[1]);
                }
                out[m * M + other] = out[other * M + m] = _mm512_reduce_add_pd(_mm512_add_pd(sum[0], sum[1]));
            }
        }
}

/* (D^-1 - D^-1 A' inner A D^-1) residual for each class, (S, K, R): preconditioners/low_rank.py has the formula. */
void low_rank_solve(const bfloat16 *high, const i64 *index, const float *inverse, const double *inner,
                  const float *residual, float *out, i64 S, i64 K, i64 M, i64 R) {
#pragma omp parallel for schedule(static)
    for (i64 k = 0; k < K; k++)
        for (i64 s = 0; s < S; s++) {
            const float *diagonal = inverse + k * R, *from = residual + (s * K + k) * R;
            float *to = out + (s * K + k) * R, back[R];
            double projected[M];
            for (i64 r = 0; r < R; r++) to[r] = diagonal[r] * from[r], back[r] = 0;
            for (i64 m = 0; m < M; m++) {
                const bfloat16 *row = high + index[k * M + m] * R;
                __m512 sum = _mm512_setzero_ps();
                for (i64 r = 0; r < R; r += TILE) sum = _mm512_fmadd_ps(widened(row + r), _mm512_loadu_ps(to + r), sum);
                projected[m] = _mm512_reduce_add_ps(sum);
            }
            for (i64 m = 0; m < M; m++) {
                const bfloat16 *row = high + index[k * M + m] * R;
                double solved = 0;
                for (i64 other = 0; other < M; other++) solved += inner[(k * M + m) * M + other] * projected[other];
                for (i64 r = 0; r < R; r += TILE) {
                    __m512 so_far = _mm512_loadu_ps(back + r);
                    __m512 factor = _mm512_set1_ps((float)solved);
                    _mm512_storeu_ps(back + r, _mm512_fmadd_ps(widened(row + r), factor, so_far));
                }
            }
            for (i64 r = 0; r < R; r++) to[r] -= diagonal[r] * back[r];
        }
}

#else

int64_t workspace_bytes(void) { return 0; }
int request_amx(void) { return -1; }

#endif
