// Vectors of floats for the instructions that this file is compiled for: AVX-512, AVX2
// with FMA, or 16 bytes, which compilers turn into SSE2 or NEON.

#ifndef SPARSENET_SIMD_H_
#define SPARSENET_SIMD_H_

#include <cstdint>

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

namespace {  // each instruction set's own: the linker must not mix them

#if defined(__AVX512F__)

constexpr int kLanes = 16;
using Vector = __m512;

inline Vector Zero() { return _mm512_setzero_ps(); }
inline Vector Load(const float* from) { return _mm512_loadu_ps(from); }
inline void Store(float* to, Vector value) { _mm512_storeu_ps(to, value); }
inline Vector Broadcast(float value) { return _mm512_set1_ps(value); }
inline Vector Add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector MultiplyAdd(Vector a, Vector b, Vector sum) {
  return _mm512_fmadd_ps(a, b, sum);
}
inline Vector Gather(const float* from, const int32_t* at) {
  return _mm512_i32gather_ps(_mm512_loadu_si512(at), from, 4);
}
inline Vector LowPairs(Vector a, Vector b) { return _mm512_unpacklo_ps(a, b); }
inline Vector HighPairs(Vector a, Vector b) { return _mm512_unpackhi_ps(a, b); }
inline Vector LowHalves(Vector a, Vector b) {
  return _mm512_castpd_ps(
      _mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
inline Vector HighHalves(Vector a, Vector b) {
  return _mm512_castpd_ps(
      _mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
// The sum of the vector's parts of four lanes.
inline __m128 AddQuarters(Vector a) {
  const __m256 high = _mm512_castps512_ps256(_mm512_shuffle_f32x4(a, a, 0xEE));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), high);
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

#elif defined(__AVX2__) && defined(__FMA__)

constexpr int kLanes = 8;
using Vector = __m256;

inline Vector Zero() { return _mm256_setzero_ps(); }
inline Vector Load(const float* from) { return _mm256_loadu_ps(from); }
inline void Store(float* to, Vector value) { _mm256_storeu_ps(to, value); }
inline Vector Broadcast(float value) { return _mm256_set1_ps(value); }
inline Vector Add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
inline Vector MultiplyAdd(Vector a, Vector b, Vector sum) {
  return _mm256_fmadd_ps(a, b, sum);
}
inline Vector Gather(const float* from, const int32_t* at) {
  const __m256i indices = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  return _mm256_i32gather_ps(from, indices, 4);
}
inline Vector LowPairs(Vector a, Vector b) { return _mm256_unpacklo_ps(a, b); }
inline Vector HighPairs(Vector a, Vector b) { return _mm256_unpackhi_ps(a, b); }
inline Vector LowHalves(Vector a, Vector b) {
  return _mm256_castpd_ps(
      _mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}
inline Vector HighHalves(Vector a, Vector b) {
  return _mm256_castpd_ps(
      _mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}
inline __m128 AddQuarters(Vector a) {
  return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}

#else

constexpr int kLanes = 4;
typedef float Vector __attribute__((vector_size(16)));
typedef float UnalignedVector __attribute__((vector_size(16), aligned(4), may_alias));

inline Vector Zero() { return Vector{0, 0, 0, 0}; }
inline Vector Load(const float* from) {
  return *reinterpret_cast<const UnalignedVector*>(from);
}
inline void Store(float* to, Vector value) {
  *reinterpret_cast<UnalignedVector*>(to) = value;
}
inline Vector Broadcast(float value) { return Vector{value, value, value, value}; }
inline Vector Add(Vector a, Vector b) { return a + b; }
inline Vector MultiplyAdd(Vector a, Vector b, Vector sum) { return a * b + sum; }
inline Vector Gather(const float* from, const int32_t* at) {
  return Vector{from[at[0]], from[at[1]], from[at[2]], from[at[3]]};
}
inline Vector LowPairs(Vector a, Vector b) { return Vector{a[0], b[0], a[1], b[1]}; }
inline Vector HighPairs(Vector a, Vector b) { return Vector{a[2], b[2], a[3], b[3]}; }
inline Vector LowHalves(Vector a, Vector b) { return Vector{a[0], a[1], b[0], b[1]}; }
inline Vector HighHalves(Vector a, Vector b) { return Vector{a[2], a[3], b[2], b[3]}; }
inline Vector AddQuarters(Vector a) { return a; }

#endif

// {sum of a, sum of b, sum of c, sum of d}.
inline auto SumsOfLanes(Vector a, Vector b, Vector c, Vector d) {
  const Vector ab = Add(LowPairs(a, b), HighPairs(a, b));
  const Vector cd = Add(LowPairs(c, d), HighPairs(c, d));
  return AddQuarters(Add(LowHalves(ab, cd), HighHalves(ab, cd)));
}

inline float SumOfLanes(Vector a) {
  const auto sums = SumsOfLanes(a, Zero(), Zero(), Zero());
  float first;
  __builtin_memcpy(&first, &sums, sizeof(first));
  return first;
}

// to[j][i] = from[i][j], for kLanes rows of kLanes floats.
inline void Transpose(const float* const* from, float* const* to) {
  Vector rows[kLanes], mixed[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = Load(from[i]);
  // Squares of four by four, in each part of four lanes.
  for (int i = 0; i < kLanes; i += 4) {
    const Vector low01 = LowPairs(rows[i], rows[i + 1]);
    const Vector high01 = HighPairs(rows[i], rows[i + 1]);
    const Vector low23 = LowPairs(rows[i + 2], rows[i + 3]);
    const Vector high23 = HighPairs(rows[i + 2], rows[i + 3]);
    mixed[i] = LowHalves(low01, low23);
    mixed[i + 1] = HighHalves(low01, low23);
    mixed[i + 2] = LowHalves(high01, high23);
    mixed[i + 3] = HighHalves(high01, high23);
  }
#if defined(__AVX512F__)
  for (int i = 0; i < 4; ++i) {
    const Vector a = mixed[i], b = mixed[i + 4], c = mixed[i + 8], d = mixed[i + 12];
    const Vector ab_low = _mm512_shuffle_f32x4(a, b, 0x88);   // a0 a2 b0 b2
    const Vector cd_low = _mm512_shuffle_f32x4(c, d, 0x88);
    const Vector ab_high = _mm512_shuffle_f32x4(a, b, 0xDD);  // a1 a3 b1 b3
    const Vector cd_high = _mm512_shuffle_f32x4(c, d, 0xDD);
    Store(to[i], _mm512_shuffle_f32x4(ab_low, cd_low, 0x88));
    Store(to[i + 4], _mm512_shuffle_f32x4(ab_high, cd_high, 0x88));
    Store(to[i + 8], _mm512_shuffle_f32x4(ab_low, cd_low, 0xDD));
    Store(to[i + 12], _mm512_shuffle_f32x4(ab_high, cd_high, 0xDD));
  }
#elif defined(__AVX2__) && defined(__FMA__)
  for (int i = 0; i < 4; ++i) {
    Store(to[i], _mm256_permute2f128_ps(mixed[i], mixed[i + 4], 0x20));
    Store(to[i + 4], _mm256_permute2f128_ps(mixed[i], mixed[i + 4], 0x31));
  }
#else
  for (int i = 0; i < kLanes; ++i) Store(to[i], mixed[i]);
#endif
}

}  // namespace

#endif  // SPARSENET_SIMD_H_
