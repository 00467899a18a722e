// Modulated deformable convolution on the CPU, forward and backward, behind a C interface for ctypes.
//
// No torch headers: it compiles in seconds and serves any torch version. Everything works on channels-last data
// (pixel by pixel, channels together) in tiles of a few dozen output pixels, so that the sampled columns (9 values per
// channel and pixel) stay in the second-level cache between sampling and matrix product and never reach memory.
//
// The same templates are compiled for several instruction sets; the best one that the processor has is run.

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#define INLINE static inline __attribute__((always_inline))

namespace {

// Mirrored by Problem in native.py.
struct Problem {
    int64_t batch, height, width, channels;  // of x; channels is a multiple of 16 in every group
    int64_t out_height, out_width, out_channels;  // out_channels is a multiple of 16
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w, groups;
    int64_t offset_strides[4], mask_strides[4];
    int64_t bfloat16;  // x, out and grad_out are bfloat16, else float
    int64_t threads;
    const void *x;
    const float *offset, *mask;
    const float *weight;  // forward: (taps * channels) x out_channels; backward: its transpose
    void *out;
    // Backward only. Thread t works on the output pixels bounds[t] to bounds[t + 1]. Where these begin in the middle
    // of an image, its contributions to that image go to grad_x_extra[t]; the caller adds them, in order.
    const int64_t *bounds;
    const void *grad_out;
    float *grad_x, **grad_x_extra;  // grad_x_extra: one pointer per thread
    float *grad_offset, *grad_mask;
    int64_t grad_offset_strides[4], grad_mask_strides[4];
    float *grad_weight;  // threads x (taps * channels) x out_channels
    mutable std::atomic<int64_t> out_of_memory;  // set where a buffer could not be had: the result is incomplete
};

// ---- Vectors -------------------------------------------------------------------------------------------------------

template <int W>
struct Simd {
    typedef float Float __attribute__((vector_size(4 * W)));
    typedef uint32_t Word __attribute__((vector_size(4 * W)));
    typedef uint16_t Half __attribute__((vector_size(2 * W)));
};

template <int W>
INLINE void load(typename Simd<W>::Float &to, const float *from) {
    memcpy(&to, from, sizeof to);
}

template <int W>
INLINE void load(typename Simd<W>::Float &to, const uint16_t *from) {
    typename Simd<W>::Half half;
    memcpy(&half, from, sizeof half);
    to = (typename Simd<W>::Float)(__builtin_convertvector(half, typename Simd<W>::Word) << 16);
}

template <int W>
INLINE void store(float *to, const typename Simd<W>::Float &from) {
    memcpy(to, &from, sizeof from);
}

template <int W>  // rounds to nearest even; a NaN stays one
INLINE void store(uint16_t *to, const typename Simd<W>::Float &from) {
    typedef typename Simd<W>::Word Word;
    Word bits = (Word)from;
    Word rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    Word nan = (Word)(from != from);
    auto half = __builtin_convertvector((rounded & ~nan) | (0x7fc0 & nan), typename Simd<W>::Half);
    memcpy(to, &half, sizeof half);
}

template <int W>
INLINE float sum(const typename Simd<W>::Float &v) {
    float lanes[W], total = 0;
    memcpy(lanes, &v, sizeof v);
    for (int i = 0; i < W; i++) total += lanes[i];
    return total;
}

// ---- Matrix product ------------------------------------------------------------------------------------------------

INLINE uint32_t bfloat16_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return value != value ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// Rows x columns -> panels of `width` columns, each rows x width, zero-filled at the right.
void pack(const float *from, int64_t rows, int64_t columns, int width, float *to) {
    for (int64_t panel = 0; panel < columns; panel += width)
        for (int64_t row = 0; row < rows; row++)
            for (int64_t column = panel; column < panel + width; column++)
                *to++ = column < columns ? from[row * columns + column] : 0.f;
}

// The same in bfloat16, two successive rows interleaved: the operand order of the dot-product instruction.
void pack_pairs(const float *from, int64_t rows, int64_t columns, int width, uint32_t *to) {
    for (int64_t panel = 0; panel < columns; panel += width)
        for (int64_t row = 0; row < rows; row += 2)
            for (int64_t column = panel; column < panel + width; column++) {
                const float *at = from + row * columns + column;
                *to++ = column < columns ? bfloat16_bits(at[0]) | bfloat16_bits(at[columns]) << 16 : 0;
            }
}

// acc += a * b, elementwise on W floats.
template <int W>
struct FloatProduct {
    typedef float Element, Column;
    template <int MR, int NV>
    INLINE void step(typename Simd<W>::Float (&acc)[MR][NV], const float *a, int64_t a_row, const float *b) {
        typename Simd<W>::Float column[NV];
#pragma GCC unroll 8
        for (int j = 0; j < NV; j++) load<W>(column[j], b + j * W);
#pragma GCC unroll 16
        for (int i = 0; i < MR; i++) {
            float value = a[i * a_row];
#pragma GCC unroll 8
            for (int j = 0; j < NV; j++) acc[i][j] += value * column[j];
        }
    }
};

#if defined(__x86_64__)
// The same on pairs of bfloat16. Assembly, since an intrinsic cannot be inlined into a template that is not itself
// marked for its instruction set.
template <int W>
struct DotProduct {
    typedef uint32_t Element;  // two Columns
    typedef uint16_t Column;
    template <int MR, int NV>
    INLINE void step(typename Simd<W>::Float (&acc)[MR][NV], const uint32_t *a, int64_t a_row, const uint32_t *b) {
        typename Simd<W>::Word column[NV];
#pragma GCC unroll 8
        for (int j = 0; j < NV; j++) memcpy(&column[j], b + j * W, sizeof column[j]);
#pragma GCC unroll 16
        for (int i = 0; i < MR; i++) {
            typename Simd<W>::Word value = a[i * a_row] - typename Simd<W>::Word{};
#pragma GCC unroll 8
            for (int j = 0; j < NV; j++) asm("vdpbf16ps %2, %1, %0" : "+v"(acc[i][j]) : "v"(value), "v"(column[j]));
        }
    }
};
#endif

// c (rows x columns, up to MR x NV * W of them) = or += a (MR x depth) * b (one packed panel, depth x NV * W).
template <class Product, int W, int MR, int NV>
INLINE void micro(int64_t depth, const typename Product::Element *a, int64_t a_row, int64_t a_step,
                  const typename Product::Element *b, float *c, int64_t c_row, int64_t rows, int64_t columns, bool add) {
    typename Simd<W>::Float acc[MR][NV] = {};
    for (int64_t k = 0; k < depth; k++) Product::template step<MR, NV>(acc, a + k * a_step, a_row, b + k * NV * W);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
        if (i >= rows) break;
#pragma GCC unroll 8
        for (int j = 0; j < NV; j++) {
            if (j * W >= columns) break;
            float *at = c + i * c_row + j * W;
            if (add) {
                typename Simd<W>::Float before;
                load<W>(before, at);
                acc[i][j] += before;
            }
            store<W>(at, acc[i][j]);
        }
    }
}

// c (rows x columns) = or += a (rows x depth, readable up to a multiple of MR rows) * b (packed panels). Blocks of
// the depth keep one panel's block, 16 KiB, in the first-level cache while the rows pass by.
template <class Product, int W, int MR, int NV>
INLINE void product(int64_t rows, int64_t columns, int64_t depth, const typename Product::Element *a, int64_t a_row,
                    int64_t a_step, const typename Product::Element *b, float *c, bool add) {
    const int64_t width = NV * W, block = 4096 / width;
    for (int64_t k = 0; k < depth; k += block) {
        int64_t steps = depth - k < block ? depth - k : block;
        for (int64_t j = 0; j < columns; j += width)
            for (int64_t i = 0; i < rows; i += MR)
                micro<Product, W, MR, NV>(steps, a + i * a_row + k * a_step, a_row, a_step, b + j * depth + k * width,
                                          c + i * columns + j, columns, rows - i, columns - j, add || k > 0);
    }
}

// ---- Sampling ------------------------------------------------------------------------------------------------------

// Where one tap reads: its four corners (upper left, upper right, lower left, lower right).
struct Point {
    int64_t at[4];  // position of the corner's first channel in x, -1 outside the picture
    float weight[4], fraction_y, fraction_x, mask;
};

// The points of `count` output pixels from `first` on, for each pixel group by group and tap by tap.
INLINE void find_points(const Problem &p, int64_t first, int64_t count, Point *point) {
    const int64_t group_channels = p.channels / p.groups, taps = p.kernel_h * p.kernel_w;
    const int64_t *os = p.offset_strides, *ms = p.mask_strides;
    int64_t column = first % p.out_width, row = first / p.out_width % p.out_height;
    int64_t image = first / (p.out_width * p.out_height);
    for (int64_t n = 0; n < count; n++) {
        const float *offset = p.offset + image * os[0] + row * os[2] + column * os[3];
        const float *mask = p.mask + image * ms[0] + row * ms[2] + column * ms[3];
        for (int64_t t = 0; t < p.groups * taps; t++, point++) {
            const int64_t tap = t % taps, channel = t / taps * group_channels;
            const float y = row * p.stride_h - p.padding_h + tap / p.kernel_w * p.dilation_h + offset[2 * t * os[1]];
            const float x =
                column * p.stride_w - p.padding_w + tap % p.kernel_w * p.dilation_w + offset[(2 * t + 1) * os[1]];
            point->mask = mask[t * ms[1]];
            if (y >= -1 && y < p.height && x >= -1 && x < p.width) {
                const int64_t top = (int64_t)y - (y < 0 && y > -1), left = (int64_t)x - (x < 0 && x > -1);  // floor
                const float fy = y - top, fx = x - left;
                const bool in_y[2] = {top >= 0, top + 1 < p.height}, in_x[2] = {left >= 0, left + 1 < p.width};
                const int64_t start = ((image * p.height + top) * p.width + left) * p.channels + channel;
                point->fraction_y = fy;
                point->fraction_x = fx;
                for (int i = 0; i < 4; i++) {
                    const bool inside = in_y[i / 2] && in_x[i % 2];
                    point->at[i] = inside ? start + (i / 2 * p.width + i % 2) * p.channels : -1;
                    point->weight[i] = (i / 2 ? fy : 1 - fy) * (i % 2 ? fx : 1 - fx);
                }
            } else {
                const float nothing = y == y && x == x ? 0 : y + x;  // a NaN offset must not go unnoticed
                point->fraction_y = point->fraction_x = nothing;
                for (int i = 0; i < 4; i++) point->at[i] = -1, point->weight[i] = nothing;
            }
        }
        if (++column == p.out_width) {
            column = 0;
            if (++row == p.out_height) row = 0, image++;
        }
    }
}

// ---- Forward -------------------------------------------------------------------------------------------------------

// One thread's buffers, aligned for the widest vectors. `raw` is null where there is no memory. No exceptions: in a thread
// that has thrown none yet, the first one wants memory of its own, and where there is none the C library ends the process.
struct Scratch {
    explicit Scratch(int64_t bytes)
        : raw((char *)std::malloc(bytes + 64), std::free), next((char *)(((uintptr_t)raw.get() + 63) & ~63)) {}
    template <class T>
    T *take(int64_t count) {
        T *part = (T *)next;
        next += (count * sizeof(T) + 63) & ~63;
        return part;
    }
    std::unique_ptr<char, void (*)(void *)> raw;
    char *next;
};

// Output pixels of one tile: about 128 KiB of columns, a multiple of MR.
int64_t tile_rows(int64_t depth, int MR) {
    int64_t rows = (1 << 15) / depth;
    rows = rows > 48 ? 48 : rows;
    return rows < MR ? MR : rows / MR * MR;
}

// T: of x and the output.
template <class Product, class T, int W, int MR, int NV>
INLINE void forward_worker(const Problem &p, const typename Product::Element *packed, std::atomic<int64_t> &next) {
    typedef typename Product::Column Column;
    const int64_t points_per_pixel = p.groups * p.kernel_h * p.kernel_w, group_channels = p.channels / p.groups;
    const int64_t taps = p.kernel_h * p.kernel_w, depth = taps * p.channels, rows = tile_rows(depth, MR);
    const int64_t pixels = p.batch * p.out_height * p.out_width;
    Scratch scratch(rows * (points_per_pixel * sizeof(Point) + depth * sizeof(Column) + p.out_channels * 4) +
                    p.channels * sizeof(T) + 4 * 64);
    if (!scratch.raw) {
        p.out_of_memory = 1;
        return;
    }
    Point *points = scratch.take<Point>(rows * points_per_pixel);
    Column *columns = scratch.take<Column>(rows * depth);
    float *result = scratch.take<float>(rows * p.out_channels);
    T *nothing = scratch.take<T>(p.channels);
    memset(columns, 0, rows * depth * sizeof(Column));
    memset(nothing, 0, p.channels * sizeof(T));
    const T *x = (const T *)p.x;
    for (;;) {
        const int64_t first = next.fetch_add(rows);
        if (first >= pixels) return;
        const int64_t count = pixels - first < rows ? pixels - first : rows;
        find_points(p, first, count, points);
        const Point *point = points;
        for (int64_t n = 0; n < count; n++)
            for (int64_t t = 0; t < points_per_pixel; t++, point++) {
                Column *column = columns + n * depth + t % taps * p.channels + t / taps * group_channels;
                const T *corner[4];
                typename Simd<W>::Float weight[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    corner[i] = point->at[i] < 0 ? nothing : x + point->at[i];
                    weight[i] = point->weight[i] * point->mask - typename Simd<W>::Float{};
                }
                for (int64_t c = 0; c < group_channels; c += W) {
                    typename Simd<W>::Float sampled = {}, value;
#pragma GCC unroll 4
                    for (int i = 0; i < 4; i++) {
                        load<W>(value, corner[i] + c);
                        sampled += weight[i] * value;
                    }
                    store<W>(column + c, sampled);
                }
            }
        const int64_t per = sizeof(typename Product::Element) / sizeof(Column);
        float *target = sizeof(T) == 4 ? (float *)p.out + first * p.out_channels : result;
        product<Product, W, MR, NV>(count, p.out_channels, depth / per, (const typename Product::Element *)columns,
                                    depth / per, 1, packed, target, false);
        if (sizeof(T) == 2)
            for (int64_t i = 0; i < count * p.out_channels; i += W) {
                typename Simd<W>::Float value;
                load<W>(value, result + i);
                store<W>((uint16_t *)p.out + first * p.out_channels + i, value);
            }
    }
}

// ---- Backward ------------------------------------------------------------------------------------------------------

template <class T, int W, int MR, int NV>
INLINE void backward_worker(const Problem &p, const float *packed, int64_t thread) {
    typedef typename Simd<W>::Float Float;
    const int64_t points_per_pixel = p.groups * p.kernel_h * p.kernel_w, group_channels = p.channels / p.groups;
    const int64_t taps = p.kernel_h * p.kernel_w, depth = taps * p.channels, rows = tile_rows(depth, MR);
    const int64_t width = NV * W, outs = p.out_channels, padded_outs = (outs + width - 1) / width * width;
    const int64_t image_size = p.height * p.width * p.channels, image_pixels = p.out_height * p.out_width;
    Scratch scratch(rows * (points_per_pixel * sizeof(Point) + (2 * depth + outs + padded_outs) * 4) +
                    p.channels * (sizeof(T) + 4) + MR * 4 + 7 * 64);
    if (!scratch.raw) {
        p.out_of_memory = 1;
        return;
    }
    Point *points = scratch.take<Point>(rows * points_per_pixel);
    float *columns = scratch.take<float>(rows * depth + MR);  // the product reads up to MR values past the end
    float *grad_columns = scratch.take<float>(rows * depth);
    float *grad_out = scratch.take<float>(rows * outs), *packed_grad = scratch.take<float>(rows * padded_outs);
    T *nothing = scratch.take<T>(p.channels);
    float *nowhere = scratch.take<float>(p.channels);
    memset(nothing, 0, p.channels * sizeof(T));
    memset(grad_out, 0, rows * outs * 4);
    memset(columns, 0, (rows * depth + MR) * 4);
    const T *x = (const T *)p.x;
    float *grad_weight = p.grad_weight + thread * depth * outs;

    const int64_t begin = p.bounds[thread], end = p.bounds[thread + 1];
    for (int64_t first = begin; first < end; first += rows) {
        const int64_t count = end - first < rows ? end - first : rows;
        find_points(p, first, count, points);
        for (int64_t i = 0; i < count * outs; i += W) {
            Float value;
            load<W>(value, (const T *)p.grad_out + first * outs + i);
            store<W>(grad_out + i, value);
        }
        product<FloatProduct<W>, W, MR, NV>(count, depth, outs, grad_out, outs, 1, packed, grad_columns, false);

        const Point *point = points;
        for (int64_t n = 0; n < count; n++) {
            const int64_t pixel = first + n, image = pixel / image_pixels;
            const int64_t row = pixel / p.out_width % p.out_height, column = pixel % p.out_width;
            const bool shared = image * image_pixels < begin;
            float *grad_x = shared ? p.grad_x_extra[thread] - image * image_size : p.grad_x;
            const int64_t *os = p.grad_offset_strides, *ms = p.grad_mask_strides;
            float *grad_offset = p.grad_offset + image * os[0] + row * os[2] + column * os[3];
            float *grad_mask = p.grad_mask + image * ms[0] + row * ms[2] + column * ms[3];
            for (int64_t t = 0; t < points_per_pixel; t++, point++) {
                const int64_t place = n * depth + t % taps * p.channels + t / taps * group_channels;
                const T *corner[4];
                float *target[4];
                Float weight[4], dot[4] = {};
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    corner[i] = point->at[i] < 0 ? nothing : x + point->at[i];
                    target[i] = point->at[i] < 0 ? nowhere : grad_x + point->at[i];
                    weight[i] = point->weight[i] * point->mask - Float{};
                }
                for (int64_t c = 0; c < group_channels; c += W) {
                    Float grad, value, before, sampled = {};
                    load<W>(grad, grad_columns + place + c);
#pragma GCC unroll 4
                    for (int i = 0; i < 4; i++) {
                        load<W>(value, corner[i] + c);
                        dot[i] += grad * value;
                        sampled += weight[i] * value;
                        load<W>(before, target[i] + c);
                        store<W>(target[i] + c, before + weight[i] * grad);
                    }
                    store<W>(columns + place + c, sampled);
                }
                const float d[4] = {sum<W>(dot[0]), sum<W>(dot[1]), sum<W>(dot[2]), sum<W>(dot[3])};
                const float fy = point->fraction_y, fx = point->fraction_x, *w = point->weight;
                grad_mask[t * ms[1]] = w[0] * d[0] + w[1] * d[1] + w[2] * d[2] + w[3] * d[3];
                grad_offset[2 * t * os[1]] = point->mask * ((1 - fx) * (d[2] - d[0]) + fx * (d[3] - d[1]));
                grad_offset[(2 * t + 1) * os[1]] = point->mask * ((1 - fy) * (d[1] - d[0]) + fy * (d[3] - d[2]));
            }
        }
        pack(grad_out, count, outs, width, packed_grad);
        product<FloatProduct<W>, W, MR, NV>(depth, outs, count, columns, 1, depth, packed_grad, grad_weight, true);
    }
}

// ---- One version per instruction set -------------------------------------------------------------------------------

struct Version {
    int width;  // of a packed panel
    bool pairs;  // the bfloat16 forward wants pairs
    void (*forward)(const Problem &, const float *, std::atomic<int64_t> &);
    void (*forward_bfloat16)(const Problem &, const void *, std::atomic<int64_t> &);
    void (*backward)(const Problem &, const float *, int64_t);
};

#define VERSION(NAME, TARGET, W, MR, NV, PRODUCT16)                                                               \
    TARGET void forward_##NAME(const Problem &p, const float *packed, std::atomic<int64_t> &next) {               \
        forward_worker<FloatProduct<W>, float, W, MR, NV>(p, packed, next);                                       \
    }                                                                                                             \
    TARGET void forward_bfloat16_##NAME(const Problem &p, const void *packed, std::atomic<int64_t> &next) {       \
        typedef PRODUCT16<W> Product;                                                                             \
        forward_worker<Product, uint16_t, W, MR, NV>(p, (const Product::Element *)packed, next);                  \
    }                                                                                                             \
    TARGET void backward_##NAME(const Problem &p, const float *packed, int64_t thread) {                          \
        p.bfloat16 ? backward_worker<uint16_t, W, MR, NV>(p, packed, thread)                                      \
                   : backward_worker<float, W, MR, NV>(p, packed, thread);                                        \
    }                                                                                                             \
    const Version NAME = {NV * W, sizeof(PRODUCT16<W>::Column) == 2, forward_##NAME, forward_bfloat16_##NAME,     \
                          backward_##NAME};

VERSION(baseline, , 4, 3, 4, FloatProduct)

#if defined(__x86_64__)
VERSION(avx2, __attribute__((target("avx2,fma"))), 8, 6, 2, FloatProduct)

#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512"
VERSION(avx512, __attribute__((target(AVX512))), 16, 12, 2, FloatProduct)
VERSION(avx512_bf16, __attribute__((target(AVX512))), 16, 12, 2, DotProduct)
#endif

const Version &choose() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return __builtin_cpu_supports("avx512bf16") ? avx512_bf16 : avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2;
#endif
    return baseline;
}

// Runs work(0) to work(count - 1) at once; those for which the system grants no thread, one after the other. Not OpenMP:
// torch brings its own copy of that, and while one copy's idle threads wait for work by spinning, the other's get no core.
template <class Work>
void on_threads(int64_t count, Work work) {
    struct Job {
        Work *work;
        int64_t number;
        pthread_t thread;
        bool begun;
    };
    const auto run = [](void *job) -> void * {
        (*((Job *)job)->work)(((Job *)job)->number);
        return nullptr;
    };
    Scratch scratch(count * sizeof(Job));
    Job *jobs = scratch.raw ? scratch.take<Job>(count) : nullptr;
    for (int64_t number = 1; number < count; number++) {
        if (jobs) {
            jobs[number] = {&work, number, {}, false};
            jobs[number].begun = pthread_create(&jobs[number].thread, nullptr, run, jobs + number) == 0;
        }
        if (!jobs || !jobs[number].begun) work(number);
    }
    work(0);
    for (int64_t number = 1; jobs && number < count; number++)
        if (jobs[number].begun) pthread_join(jobs[number].thread, nullptr);
}

}  // namespace

extern "C" void airnet_forward(Problem *p) {
    const Version &v = choose();
    const int64_t depth = p->kernel_h * p->kernel_w * p->channels;
    std::atomic<int64_t> next(0);
    Scratch scratch((p->out_channels + v.width) * depth * 4);
    p->out_of_memory = !scratch.raw;
    if (!scratch.raw) return;
    float *packed = scratch.take<float>(0);
    if (p->bfloat16 && v.pairs)
        pack_pairs(p->weight, depth, p->out_channels, v.width, (uint32_t *)packed);
    else
        pack(p->weight, depth, p->out_channels, v.width, packed);
    on_threads(p->threads, [&](int64_t) {
        p->bfloat16 ? v.forward_bfloat16(*p, packed, next) : v.forward(*p, packed, next);
    });
}

extern "C" void airnet_backward(Problem *p) {
    const Version &v = choose();
    const int64_t depth = p->kernel_h * p->kernel_w * p->channels;
    Scratch scratch((depth + v.width) * p->out_channels * 4);
    p->out_of_memory = !scratch.raw;
    if (!scratch.raw) return;
    float *packed = scratch.take<float>(0);
    pack(p->weight, p->out_channels, depth, v.width, packed);
    on_threads(p->threads, [&](int64_t thread) { v.backward(*p, packed, thread); });
}
