// Products of a batch with a sparse matrix, as stages of work for several threads.

#ifndef SPARSENET_SPARSE_MATMUL_H_
#define SPARSENET_SPARSE_MATMUL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "sparse_simd.h"
#include "stages.h"

namespace sparsenet {

// All tasks of some stages as one, in the groups of the first of them. Those of a stage
// with as many groups stay in their group; others are dealt out.
inline Stage Together(std::vector<Stage> stages) {
  const int64_t groups = stages[0].groups;
  int64_t of_group = 0;
  for (const Stage& stage : stages) of_group += (stage.count + groups - 1) / groups;
  return {groups * of_group,
          [=, stages = std::move(stages)](int64_t i) {
            const int64_t group = i / of_group;
            int64_t at = i % of_group;
            for (const Stage& stage : stages) {
              const int64_t part = (stage.count + groups - 1) / groups;
              if (at < part) {
                const int64_t task = group * part + at;
                if (task < stage.count) stage.task(task);
                return;
              }
              at -= part;
            }
          },
          groups};
}

// A part of 0..size for each task.
template <typename Work>
Stage InParts(int64_t size, int64_t part, Work work) {
  return {(size + part - 1) / part, [=](int64_t i) {
            work(i * part, std::min((i + 1) * part, size));
          }};
}

// Rows in parts with about as many nonzeros each.
inline std::vector<int64_t> CutRows(const int32_t* splits, int64_t rows, int64_t parts) {
  // A row without nonzeros is some work as well.
  const auto work = [&](int64_t row) { return splits[row] + 4 * row; };
  std::vector<int64_t> cuts = {0};
  for (int64_t part = 1; part < parts; ++part) {
    const int64_t target = work(rows) * part / parts;
    int64_t low = cuts.back(), high = rows;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (work(middle) < target) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    if (low > cuts.back() && low < rows) cuts.push_back(low);
  }
  if (rows > 0) cuts.push_back(rows);
  return cuts;
}

// Whether all of some indices are at least 0 and below a limit.
inline bool IsBelow(const int32_t* indices, int64_t count, int64_t limit) {
  uint32_t most = 0;
  for (int64_t k = 0; k < count; ++k) {
    most = std::max(most, static_cast<uint32_t>(indices[k]));
  }
  return count == 0 || most < limit;
}

// Sets `good` to false unless they are.
inline Stage CheckColumns(const int32_t* columns, int64_t count, int64_t limit,
                          std::atomic<bool>* good) {
  return InParts(count, 1 << 16, [=](int64_t begin, int64_t end) {
    if (!IsBelow(columns + begin, end - begin, limit)) *good = false;
  });
}

// Sets `good` to false unless splits rise from 0 to the number of nonzeros and columns
// are in 0..num_columns. With anything else memory would be read that is not ours.
inline std::vector<Stage> CheckPattern(const SparseRows& rows, int64_t num_rows,
                                       int64_t nonzeros, int64_t num_columns,
                                       std::atomic<bool>* good) {
  if (rows.splits[0] != 0 || rows.splits[num_rows] != nonzeros) *good = false;
  const auto check_splits = [=](int64_t begin, int64_t end) {
    bool rising = true;
    for (int64_t r = begin; r < end; ++r) rising &= rows.splits[r] <= rows.splits[r + 1];
    if (!rising) *good = false;
  };
  return {InParts(num_rows, 1 << 16, check_splits),
          CheckColumns(rows.columns, nonzeros, num_columns, good)};
}

// A batch in tiles, as few as can be and all about as wide, of which a few at a time are
// packed: as many as there are threads, so that each keeps one in its own cache.
class SparseMatmul {
 public:
  SparseMatmul(const SparseSimd& simd, int64_t batch, int threads)
      : simd_(simd), threads_(threads) {
    vectors_ = std::max<int64_t>(1, (batch + simd.lanes - 1) / simd.lanes);
    tiles_ = (vectors_ + simd.most_vectors - 1) / simd.most_vectors;
  }

  // How many floats a packed tile takes, and how many tiles a product packs at once.
  int64_t TileSize(int64_t features) const {
    return (vectors_ + tiles_ - 1) / tiles_ * simd_.lanes * features;
  }
  int64_t Tiles() const { return tiles_; }
  int64_t TilesAtOnce() const { return std::min<int64_t>(tiles_, threads_); }

  // `to`, with a feature for each row, from `from`, with one for each column.
  //
  // Args:
  //   packed: room for `TilesAtOnce()` tiles of `from`.
  //   also: what must be done before the first product as well.
  //   good: nothing is computed unless it is true by then.
  std::vector<Stage> Product(const SparseRows& rows, const Examples& from,
                             const Examples& to, float* packed, std::vector<Stage> also,
                             const std::atomic<bool>* good) const {
    const auto cuts = CutRows(rows.splits, to.features, 4 * threads_);
    const int64_t parts = static_cast<int64_t>(cuts.size()) - 1;
    const int64_t size = TileSize(from.features);
    std::vector<Stage> stages;
    for (int64_t begin = 0; begin < tiles_; begin += TilesAtOnce()) {
      const int64_t tiles = std::min(TilesAtOnce(), tiles_ - begin);
      std::vector<Stage> first = {Pack(from, begin, tiles, packed)};
      if (begin == 0) first.insert(first.end(), also.begin(), also.end());
      stages.push_back(Together(std::move(first)));
      stages.push_back({tiles * parts,
                        [=](int64_t i) {
                          if (!*good) return;
                          const int64_t tile = begin + i / parts, part = i % parts;
                          simd_.product(rows, packed + i / parts * size, Vectors(tile),
                                        cuts[part], cuts[part + 1], to, First(tile));
                        },
                        tiles});
    }
    return stages;
  }

  // For each nonzero, added to `to`, the product of its column's and its row's feature,
  // summed over the batch; tile by tile, so that it is the same for any threads.
  //
  // Args:
  //   packed: room for `TilesAtOnce()` tiles of `by_column` and as many of `by_row`.
  std::vector<Stage> Sampled(const SparseRows& rows, const Examples& by_column,
                             const Examples& by_row, float* packed,
                             std::vector<Stage> also, float* to,
                             const std::atomic<bool>* good) const {
    const auto cuts = CutRows(rows.splits, by_row.features, 16 * threads_);
    const int64_t parts = static_cast<int64_t>(cuts.size()) - 1;
    const int64_t size = TileSize(by_column.features);
    const int64_t row_size = TileSize(by_row.features);
    float* packed_rows = packed + TilesAtOnce() * size;
    // How many tiles are in `to`, for each part.
    const auto added = std::make_shared<std::vector<std::atomic<int64_t>>>(parts);
    std::vector<Stage> stages;
    for (int64_t begin = 0; begin < tiles_; begin += TilesAtOnce()) {
      const int64_t tiles = std::min(TilesAtOnce(), tiles_ - begin);
      std::vector<Stage> first = {Pack(by_column, begin, tiles, packed),
                                  Pack(by_row, begin, tiles, packed_rows)};
      if (begin == 0) first.insert(first.end(), also.begin(), also.end());
      stages.push_back(Together(std::move(first)));
      stages.push_back({tiles * parts,
                        [=](int64_t i) {
                          if (!*good) return;
                          const int64_t at = i / parts, part = i % parts;
                          std::atomic<int64_t>& turn = (*added)[part];
                          SpinUntil([&] { return turn.load() == begin + at; });
                          simd_.sampled(rows, packed + at * size,
                                        packed_rows + at * row_size, Vectors(begin + at),
                                        cuts[part], cuts[part + 1], to);
                          turn.store(begin + at + 1);
                        },
                        tiles});
    }
    return stages;
  }

  // The same for a batch of at most kNarrow examples, which are floats.
  Stage NarrowProduct(const SparseRows& rows, const Examples& from, const Examples& to,
                      const std::atomic<bool>* good) const {
    const auto cuts = CutRows(rows.splits, to.features, 4 * threads_);
    return {static_cast<int64_t>(cuts.size()) - 1, [=](int64_t part) {
              if (!*good) return;
              simd_.narrow_product(rows, from, cuts[part], cuts[part + 1], to);
            }};
  }

  // The product with the transposed matrix, a value after the other added where it
  // belongs. Parts of the rows are added to sums of their own, as many whatever the
  // threads, so that the result is the same.
  //
  // Args:
  //   packed: room for a tile of `from`, which must be the only one.
  //   sums: room for `Parts(nonzeros)` tiles of `to`.
  static int64_t Parts(int64_t nonzeros) { return nonzeros < (1 << 16) ? 1 : 8; }
  std::vector<Stage> Transposed(const SparseRows& rows, const Examples& from,
                                const Examples& to, int64_t nonzeros, float* packed,
                                float* sums, const std::atomic<bool>* good) const {
    const auto cuts = CutRows(rows.splits, from.features, Parts(nonzeros));
    const int64_t parts = static_cast<int64_t>(cuts.size()) - 1;
    const int64_t size = TileSize(to.features);
    const auto add = [=](int64_t part) {
      if (!*good) return;
      std::fill(sums + part * size, sums + (part + 1) * size, 0.0f);
      simd_.transposed(rows, packed, Vectors(0), cuts[part], cuts[part + 1],
                       sums + part * size);
    };
    const auto unpack = [=](int64_t begin, int64_t end) {
      if (*good) simd_.unpack(sums, parts, size, Vectors(0), begin, end, to, 0);
    };
    return {Pack(from, 0, 1, packed), {parts, add}, InParts(to.features, 256, unpack)};
  }

  // The same for a narrow batch; `sums` has room for as many times `to`.
  std::vector<Stage> NarrowTransposed(const SparseRows& rows, const Examples& from,
                                      const Examples& to, int64_t nonzeros, float* sums,
                                      const std::atomic<bool>* good) const {
    const int64_t size = to.count * to.features;
    const auto cuts = CutRows(rows.splits, from.features, Parts(nonzeros));
    const int64_t parts = static_cast<int64_t>(cuts.size()) - 1;
    const auto add = [=](int64_t part) {
      if (!*good) return;
      std::fill(sums + part * size, sums + (part + 1) * size, 0.0f);
      simd_.narrow_transposed(rows, from, cuts[part], cuts[part + 1], to.features,
                              sums + part * size);
    };
    const auto collect = [=](int64_t begin, int64_t end) {
      if (!*good) return;
      auto* out = static_cast<float*>(to.data);
      for (int64_t i = begin; i < end; ++i) {
        float sum = sums[i];
        for (int64_t part = 1; part < parts; ++part) sum += sums[part * size + i];
        out[i] = sum;
      }
    };
    return {{parts, add}, InParts(size, 1 << 14, collect)};
  }

  Stage NarrowSampled(const SparseRows& rows, const Examples& by_column,
                      const Examples& by_row, float* to,
                      const std::atomic<bool>* good) const {
    const auto cuts = CutRows(rows.splits, by_row.features, 4 * threads_);
    return {static_cast<int64_t>(cuts.size()) - 1, [=](int64_t part) {
              if (!*good) return;
              simd_.narrow_sampled(rows, by_column, by_row, cuts[part], cuts[part + 1],
                                   to);
            }};
  }

 private:
  Stage Pack(const Examples& from, int64_t begin, int64_t tiles, float* to) const {
    constexpr int64_t kFeatures = 512;  // of a task
    const int64_t parts = (from.features + kFeatures - 1) / kFeatures;
    const int64_t size = TileSize(from.features);
    return {tiles * parts,
            [=](int64_t i) {
              const int64_t tile = begin + i / parts, first = i % parts * kFeatures;
              const int64_t last = std::min(first + kFeatures, from.features);
              simd_.pack(from, First(tile), Vectors(tile), first, last,
                         to + i / parts * size);
            },
            tiles};
  }

  int64_t First(int64_t tile) const { return FirstVector(tile) * simd_.lanes; }
  int Vectors(int64_t tile) const {
    return static_cast<int>(FirstVector(tile + 1) - FirstVector(tile));
  }
  int64_t FirstVector(int64_t tile) const { return tile * vectors_ / tiles_; }

  const SparseSimd& simd_;
  const int threads_;
  int64_t vectors_, tiles_;
};

}  // namespace sparsenet

#endif  // SPARSENET_SPARSE_MATMUL_H_
