// See sparse_simd.h. Compiled once for each instruction set, with its own flags and with
// SPARSENET_SIMD as its name.

#include "sparse_simd.h"

#include "simd.h"

namespace sparsenet {
namespace {

constexpr int kMostVectors = kLanes == 16 ? 4 : 8;
constexpr int kTile = kMostVectors * kLanes;
constexpr int kBlock = 32;  // rows of a product that are written out together
static_assert(kBlock % kLanes == 0, "blocks are transposed in squares");

inline float FromBfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  __builtin_memcpy(&value, &wide, sizeof(value));
  return value;
}

// Rounded to the nearest, ties to even; NaN stays NaN.
inline uint16_t ToBfloat16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return static_cast<uint16_t>(value != value ? 0x7FC0 : rounded);
}

// Where in the data an example is, or -1.
inline int64_t RowOf(const Examples& examples, int64_t example) {
  if (example >= examples.count) return -1;
  return examples.rows == nullptr ? example : examples.rows[example];
}

void Pack(const Examples& from, int64_t first, int vectors, int64_t begin, int64_t end,
          float* to) {
  const int64_t width = static_cast<int64_t>(vectors) * kLanes;
  const float zeros[kLanes] = {};
  float converted[kLanes][kLanes];
  for (int64_t c = begin; c < end; c += kLanes) {
    const int here = end - c < kLanes ? static_cast<int>(end - c) : kLanes;
    for (int v = 0; v < vectors; ++v) {
      const float* rows[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const int64_t row = RowOf(from, first + v * kLanes + i);
        const int64_t at = row * from.features + c;
        if (row < 0) {
          rows[i] = zeros;
        } else if (!from.bfloat16 && here == kLanes) {
          rows[i] = static_cast<const float*>(from.data) + at;
        } else {
          for (int j = 0; j < here; ++j) {
            converted[i][j] =
                from.bfloat16
                    ? FromBfloat16(static_cast<const uint16_t*>(from.data)[at + j])
                    : static_cast<const float*>(from.data)[at + j];
          }
          rows[i] = converted[i];
        }
      }
      float* packed = to + c * width + v * kLanes;
      if (here == kLanes) {
        float* columns[kLanes];
        for (int j = 0; j < kLanes; ++j) columns[j] = packed + j * width;
        Transpose(rows, columns);
      } else {
        for (int j = 0; j < here; ++j) {
          for (int i = 0; i < kLanes; ++i) packed[j * width + i] = rows[i][j];
        }
      }
    }
  }
}

// block[r][example] to feature begin + r of the examples.
void Unpack(const float* block, int rows, int vectors, int64_t begin,
            const Examples& to, int64_t first) {
  const int64_t width = static_cast<int64_t>(vectors) * kLanes;
  float spare[kLanes][kLanes];
  for (int v = 0; v < vectors; ++v) {
    for (int r = 0; r < rows; r += kLanes) {
      const int here = rows - r < kLanes ? rows - r : kLanes;
      const float* from[kLanes];
      float* out[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        from[j] = block + (r + j) * width + v * kLanes;  // whole squares: kBlock rows
      }
      const bool direct = !to.bfloat16 && here == kLanes;
      for (int i = 0; i < kLanes; ++i) {
        const int64_t row = RowOf(to, first + v * kLanes + i);
        out[i] = direct && row >= 0
                     ? static_cast<float*>(to.data) + row * to.features + begin + r
                     : spare[i];
      }
      Transpose(from, out);
      if (direct) continue;
      for (int i = 0; i < kLanes; ++i) {
        const int64_t row = RowOf(to, first + v * kLanes + i);
        if (row < 0) continue;
        const int64_t at = row * to.features + begin + r;
        for (int j = 0; j < here; ++j) {
          if (to.bfloat16) {
            static_cast<uint16_t*>(to.data)[at + j] = ToBfloat16(spare[i][j]);
          } else {
            static_cast<float*>(to.data)[at + j] = spare[i][j];
          }
        }
      }
    }
  }
}

template <int kVectors, bool kOrdered, bool kOffsets>
void Product(const SparseRows& rows, const float* packed, int64_t begin, int64_t end,
             const Examples& to, int64_t first) {
  constexpr int kWidth = kVectors * kLanes, kStep = kOffsets ? 1 : kWidth;
  // Sums of their own, so that a product need not wait for the one before it.
  constexpr int kChains = kVectors >= 4 ? 1 : kVectors >= 2 ? 2 : 4;
  alignas(64) float block[kBlock * kWidth] = {};
  for (int64_t start = begin; start < end; start += kBlock) {
    const int here = end - start < kBlock ? static_cast<int>(end - start) : kBlock;
    for (int r = 0; r < here; ++r) {
      Vector sums[kChains][kVectors];
      for (int chain = 0; chain < kChains; ++chain) {
        for (int v = 0; v < kVectors; ++v) sums[chain][v] = Zero();
      }
      int32_t k = rows.splits[start + r];
      const int32_t last = rows.splits[start + r + 1];
      for (; k + kChains <= last; k += kChains) {
        for (int chain = 0; chain < kChains; ++chain) {
          const Vector value = Broadcast(rows.values[kOrdered ? k + chain : rows.order[k + chain]]);
          const float* x =
              packed + static_cast<int64_t>(rows.columns[k + chain]) * kStep;
          for (int v = 0; v < kVectors; ++v) {
            sums[chain][v] = MultiplyAdd(value, Load(x + v * kLanes), sums[chain][v]);
          }
        }
      }
      for (; k < last; ++k) {
        const Vector value = Broadcast(rows.values[kOrdered ? k : rows.order[k]]);
        const float* x = packed + static_cast<int64_t>(rows.columns[k]) * kStep;
        for (int v = 0; v < kVectors; ++v) {
          sums[0][v] = MultiplyAdd(value, Load(x + v * kLanes), sums[0][v]);
        }
      }
      for (int v = 0; v < kVectors; ++v) {
        Vector sum = sums[0][v];
        for (int chain = 1; chain < kChains; ++chain) sum = Add(sum, sums[chain][v]);
        Store(block + r * kWidth + v * kLanes, sum);
      }
    }
    Unpack(block, here, kVectors, start, to, first);
  }
}

template <int kVectors>
void Transposed(const SparseRows& rows, const float* packed, int64_t begin, int64_t end,
                float* sums) {
  constexpr int kWidth = kVectors * kLanes;
  for (int64_t r = begin; r < end; ++r) {
    Vector mine[kVectors];
    for (int v = 0; v < kVectors; ++v) mine[v] = Load(packed + r * kWidth + v * kLanes);
    for (int32_t k = rows.splits[r]; k < rows.splits[r + 1]; ++k) {
      const Vector value = Broadcast(rows.values[k]);
      float* sum = sums + static_cast<int64_t>(rows.columns[k]) * kWidth;
      for (int v = 0; v < kVectors; ++v) {
        Store(sum + v * kLanes, MultiplyAdd(value, mine[v], Load(sum + v * kLanes)));
      }
    }
  }
}

void UnpackSums(const float* sums, int64_t parts, int64_t size, int vectors,
                int64_t begin, int64_t end, const Examples& to, int64_t first) {
  const int64_t width = static_cast<int64_t>(vectors) * kLanes;
  alignas(64) float block[kBlock * kTile] = {};
  for (int64_t start = begin; start < end; start += kBlock) {
    const int64_t here = end - start < kBlock ? end - start : kBlock;
    for (int64_t i = 0; i < here * width; i += kLanes) {
      Vector sum = Load(sums + start * width + i);
      for (int64_t part = 1; part < parts; ++part) {
        sum = Add(sum, Load(sums + part * size + start * width + i));
      }
      Store(block + i, sum);
    }
    Unpack(block, static_cast<int>(here), vectors, start, to, first);
  }
}

template <int kVectors>
inline Vector Products(const float* a, const Vector* b) {
  Vector sum = MultiplyAdd(Load(a), b[0], Zero());
  for (int v = 1; v < kVectors; ++v) {
    sum = MultiplyAdd(Load(a + v * kLanes), b[v], sum);
  }
  return sum;
}

template <int kVectors, bool kOffsets>
void Sampled(const SparseRows& rows, const float* by_column, const float* by_row,
             int64_t begin, int64_t end, float* to) {
  constexpr int kWidth = kVectors * kLanes, kStep = kOffsets ? 1 : kWidth;
  for (int64_t r = begin; r < end; ++r) {
    Vector mine[kVectors];
    for (int v = 0; v < kVectors; ++v) mine[v] = Load(by_row + r * kWidth + v * kLanes);
    const auto at = [&](int32_t k) {
      return by_column + static_cast<int64_t>(rows.columns[k]) * kStep;
    };
    int32_t k = rows.splits[r];
    const int32_t last = rows.splits[r + 1];
    float sums[4];
    for (; k + 4 <= last; k += 4) {
      const auto four = SumsOfLanes(
          Products<kVectors>(at(k), mine), Products<kVectors>(at(k + 1), mine),
          Products<kVectors>(at(k + 2), mine), Products<kVectors>(at(k + 3), mine));
      __builtin_memcpy(sums, &four, sizeof(sums));
      for (int i = 0; i < 4; ++i) to[k + i] += sums[i];
    }
    for (; k < last; ++k) {
      const auto one =
          SumsOfLanes(Products<kVectors>(at(k), mine), Zero(), Zero(), Zero());
      __builtin_memcpy(sums, &one, sizeof(sums));
      to[k] += sums[0];
    }
  }
}

template <int kVectors = kMostVectors>
void ProductOf(const SparseRows& rows, const float* packed, int vectors, int64_t begin,
               int64_t end, const Examples& to, int64_t first) {
  if (vectors == kVectors) {
    const auto product = rows.offsets            ? Product<kVectors, true, true>
                         : rows.order == nullptr ? Product<kVectors, true, false>
                                                 : Product<kVectors, false, false>;
    product(rows, packed, begin, end, to, first);
  } else if constexpr (kVectors > 1) {
    ProductOf<kVectors - 1>(rows, packed, vectors, begin, end, to, first);
  }
}

template <int kVectors = kMostVectors>
void TransposedOf(const SparseRows& rows, const float* packed, int vectors,
                  int64_t begin, int64_t end, float* sums) {
  if (vectors == kVectors) {
    Transposed<kVectors>(rows, packed, begin, end, sums);
  } else if constexpr (kVectors > 1) {
    TransposedOf<kVectors - 1>(rows, packed, vectors, begin, end, sums);
  }
}

template <int kVectors = kMostVectors>
void SampledOf(const SparseRows& rows, const float* by_column, const float* by_row,
               int vectors, int64_t begin, int64_t end, float* to) {
  if (vectors == kVectors) {
    const auto sampled =
        rows.offsets ? Sampled<kVectors, true> : Sampled<kVectors, false>;
    sampled(rows, by_column, by_row, begin, end, to);
  } else if constexpr (kVectors > 1) {
    SampledOf<kVectors - 1>(rows, by_column, by_row, vectors, begin, end, to);
  }
}

void NarrowProduct(const SparseRows& rows, const Examples& by_column, int64_t begin,
                   int64_t end, const Examples& to) {
  const auto* x = static_cast<const float*>(by_column.data);
  for (int64_t r = begin; r < end; ++r) {
    Vector sums[kNarrow];
    for (int64_t i = 0; i < kNarrow; ++i) sums[i] = Zero();
    int32_t k = rows.splits[r];
    const int32_t last = rows.splits[r + 1];
    for (; k + kLanes <= last; k += kLanes) {
      const Vector values = Load(rows.values + k);
      for (int64_t i = 0; i < by_column.count; ++i) {
        const float* mine = x + i * by_column.features;
        sums[i] = MultiplyAdd(values, Gather(mine, rows.columns + k), sums[i]);
      }
    }
    for (int64_t i = 0; i < by_column.count; ++i) {
      float sum = SumOfLanes(sums[i]);
      for (int32_t j = k; j < last; ++j) {
        sum += rows.values[j] * x[i * by_column.features + rows.columns[j]];
      }
      const int64_t at = i * to.features + r;
      if (to.bfloat16) {
        static_cast<uint16_t*>(to.data)[at] = ToBfloat16(sum);
      } else {
        static_cast<float*>(to.data)[at] = sum;
      }
    }
  }
}

void NarrowTransposed(const SparseRows& rows, const Examples& by_row, int64_t begin,
                      int64_t end, int64_t columns, float* to) {
  const auto* y = static_cast<const float*>(by_row.data);
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t i = 0; i < by_row.count; ++i) {
      const float mine = y[i * by_row.features + r];
      float* sums = to + i * columns;
      for (int32_t k = rows.splits[r]; k < rows.splits[r + 1]; ++k) {
        sums[rows.columns[k]] += rows.values[k] * mine;
      }
    }
  }
}

void NarrowSampled(const SparseRows& rows, const Examples& by_column,
                   const Examples& by_row, int64_t begin, int64_t end, float* to) {
  const auto* x = static_cast<const float*>(by_column.data);
  const auto* y = static_cast<const float*>(by_row.data);
  for (int64_t r = begin; r < end; ++r) {
    int32_t k = rows.splits[r];
    const int32_t last = rows.splits[r + 1];
    for (; k + kLanes <= last; k += kLanes) {
      Vector sum = Zero();
      for (int64_t i = 0; i < by_row.count; ++i) {
        const Vector mine = Broadcast(y[i * by_row.features + r]);
        sum = MultiplyAdd(
            mine, Gather(x + i * by_column.features, rows.columns + k), sum);
      }
      Store(to + k, sum);
    }
    for (; k < last; ++k) {
      float sum = 0;
      for (int64_t i = 0; i < by_row.count; ++i) {
        sum += y[i * by_row.features + r] * x[i * by_column.features + rows.columns[k]];
      }
      to[k] = sum;
    }
  }
}

}  // namespace

#define SPARSENET_TEXT_OF(name) #name
#define SPARSENET_TEXT(name) SPARSENET_TEXT_OF(name)

extern const SparseSimd SPARSENET_SIMD = {SPARSENET_TEXT(SPARSENET_SIMD),
                                          kLanes,
                                          kMostVectors,
                                          Pack,
                                          ProductOf<>,
                                          SampledOf<>,
                                          TransposedOf<>,
                                          UnpackSums,
                                          NarrowProduct,
                                          NarrowTransposed,
                                          NarrowSampled};

}  // namespace sparsenet
