/* FP8 e4m3fn block dequantization: the definition and the method are those of fp8.py, and the
 * results are the same bit for bit. Plain C with loops that compilers vectorise; no allocation, no
 * globals, no Python: called through ctypes, which releases the GIL.
 *
 * Needs IEEE arithmetic: -ffast-math would break it. -fno-trapping-math only allows vectorising.
 */
#include <stdint.h>
#include <string.h>

/* GCC on x86-64 Linux compiles each entry point twice and picks one for the processor it runs on. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define KERNEL __attribute__((target_clones("avx2", "default"))) int64_t
#else
#define KERNEL int64_t
#endif
#define INLINE static inline __attribute__((always_inline))

enum target { BF16, FP16, FP32 };

INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Sign, exponent and mantissa of a code where FP32 has them: the code's value times 2**-120. */
INLINE float moved(uint8_t code) {
    return float_of(((uint32_t)(int8_t)code << 20) & 0x87F00000u);
}

INLINE uint16_t to_bf16(float value) {
    uint32_t bits = bits_of(value);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

/* The code's value, NaN aside, from normal numbers alone: for the codes below 8 the addition of
 * 2**-7 that the exponent of 0 stands for is taken back. */
INLINE float decoded(uint8_t code) {
    uint32_t size = code & 0x7Fu, sign = (uint32_t)(code & 0x80) << 24;
    float normal = float_of((size << 20) + 0x3C000000u), small = 2 * normal - 0x1p-6f;
    return float_of(bits_of(size < 8 ? small : normal) | sign);
}

/* Rounds to nearest even, without branches: below 2**-14 the addition of 0.5, whose last bit is
 * the step of the subnormals, rounds; above, the carry of the discarded 13 bits. */
INLINE uint16_t to_fp16(float value) {
    uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u, size = bits & 0x7FFFFFFFu;
    uint32_t small = bits_of(float_of(size) + 0.5f) - 0x3F000000u;
    uint32_t normal = (size - 0x38000000u + 0xFFFu + (size >> 13 & 1u)) >> 13;
    uint32_t half = size < 0x38800000u ? small : normal;
    return (uint16_t)(sign | (size >= 0x477FF000u ? 0x7C00u : half));
}

INLINE int64_t store(void *restrict out, int64_t at, float value, enum target to) {
    if (to == BF16)
        ((uint16_t *)out)[at] = to_bf16(value);
    else if (to == FP32)
        ((float *)out)[at] = value;
    else {
        uint16_t half = to_fp16(value);
        ((uint16_t *)out)[at] = half;
        return (half & 0x7C00u) == 0x7C00u;
    }
    return 0;
}

/* Any code with any scale; returns how many results are not finite. */
INLINE int64_t exactly(const uint8_t *restrict codes, int64_t count, float scale, void *restrict out, int64_t at,
                       enum target to) {
    static const uint32_t quiet[] = {0x7FC0u, 0x7E00u, 0x7FC00000u};
    int64_t bad = 0;
    for (int64_t i = 0; i < count; i++) {
        float value = decoded(codes[i]) * scale;
        if ((codes[i] & 0x7F) == 0x7F || value != value) {
            if (to == FP32)
                ((uint32_t *)out)[at + i] = quiet[to];
            else
                ((uint16_t *)out)[at + i] = (uint16_t)quiet[to];
            bad++;
            continue;
        }
        int64_t overflown = store(out, at + i, value, to);
        if (to == BF16)
            overflown = (((uint16_t *)out)[at + i] & 0x7F80u) == 0x7F80u;
        else if (to == FP32)
            overflown = (bits_of(value) & 0x7F800000u) == 0x7F800000u;
        bad += overflown;
    }
    return bad;
}

/* `count` codes of one row that share a scale. Processors take a hundred cycles for a product with
 * an FP32 subnormal, which is what `moved` makes of an e4m3 subnormal; these are rare in weights,
 * and `decoded`, half as fast as `moved`, avoids them. */
INLINE int64_t segment(const uint8_t *restrict codes, int64_t count, float scale,
                       void *restrict out, int64_t at, enum target to) {
    uint8_t largest = 0, subnormal = 0;
    for (int64_t i = 0; i < count; i++) {
        uint8_t size = codes[i] & 0x7F;
        largest = size > largest ? size : largest;
        subnormal |= (uint8_t)(size - 1) < 7;
    }
    /* Written so that a NaN fails it too. */
    if (largest == 0x7F || !(scale > -256.0f && scale < 256.0f))
        return exactly(codes, count, scale, out, at, to);
    int64_t bad = 0;
    if (subnormal) {
        for (int64_t i = 0; i < count; i++)
            bad += store(out, at + i, decoded(codes[i]) * scale, to);
        return bad;
    }
    const float folded = scale * 0x1p120f;
    for (int64_t i = 0; i < count; i++)
        bad += store(out, at + i, moved(codes[i]) * folded, to);
    return bad;
}

/* A tile of `rows` by `columns` codes whose first row is row `top` of its tensor and whose first
 * column starts a block; `scales` has a row of `stride` values per row of blocks. */
INLINE int64_t tile(const uint8_t *restrict codes, const float *restrict scales, void *restrict out, int64_t rows,
                    int64_t columns, int64_t top, int64_t height, int64_t width, int64_t stride,
                    enum target to) {
    int64_t bad = 0;
    for (int64_t row = 0; row < rows; row++) {
        const float *line = scales + ((top + row) / height - top / height) * stride;
        for (int64_t left = 0; left < columns; left += width) {
            int64_t count = columns - left < width ? columns - left : width, at = row * columns + left;
            /* The block size in use, known to the compiler. */
            if (count == 128)
                bad += segment(codes + at, 128, line[left / width], out, at, to);
            else
                bad += segment(codes + at, count, line[left / width], out, at, to);
        }
    }
    return bad;
}

/* The number at the end changes with the meaning of the arguments. */
#define ENTRY(name, to)                                                                          \
    KERNEL name(const uint8_t *restrict codes, const float *restrict scales, void *restrict out, int64_t rows,              \
                int64_t columns, int64_t top, int64_t height, int64_t width, int64_t stride) {   \
        return tile(codes, scales, out, rows, columns, top, height, width, stride, to);          \
    }
ENTRY(flagdeploy_dequantize_bf16_1, BF16)
ENTRY(flagdeploy_dequantize_fp16_1, FP16)
ENTRY(flagdeploy_dequantize_fp32_1, FP32)
