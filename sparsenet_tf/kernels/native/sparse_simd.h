// Products with a sparse matrix, vectorized over the batch, for one thread's share of it.
//
// A batch is cut into tiles of up to kMostVectors * lanes examples. Packed, a tile is the
// matrix (features, examples) with examples side by side, zero where the batch ends, so
// that a nonzero is one scalar times a few whole vectors. A batch of at most kNarrow
// examples stays as it is, and vectors go over the nonzeros of a row.

#ifndef SPARSENET_SPARSE_SIMD_H_
#define SPARSENET_SPARSE_SIMD_H_

#include <cstdint>

namespace sparsenet {

// Row r has the nonzeros splits[r] to splits[r + 1], in these columns.
struct SparseRows {
  const int32_t* splits;
  const int32_t* columns;
  const float* values;
  const int32_t* order;  // where a nonzero's value is, or null if they are in order
  bool offsets = false;  // columns say at which float of the packed tile they begin
};

// Examples of a batch in their own layout, (examples, features).
struct Examples {
  void* data;  // float, or bfloat16 as its bits
  bool bfloat16;
  int64_t count;
  int64_t features;
  // Which row of the data each example is, or null if they are in order. At -1 zeros
  // are read, and what is written is dropped.
  const int32_t* rows = nullptr;
};

constexpr int64_t kNarrow = 3;

struct SparseSimd {
  const char* name;
  int lanes;
  int most_vectors;

  // Packs features begin to end of examples `first` on.
  void (*pack)(const Examples& from, int64_t first, int vectors, int64_t begin,
               int64_t end, float* to);

  // Features begin to end of examples `first` on of the product: row r of the matrix
  // times the packed tile is feature r.
  void (*product)(const SparseRows& rows, const float* packed, int vectors,
                  int64_t begin, int64_t end, const Examples& to, int64_t first);

  // For each nonzero (r, c) of rows begin to end: the sum over the tile's examples of
  // feature c of `by_column` times feature r of `by_row`, added to what is there.
  void (*sampled)(const SparseRows& rows, const float* by_column, const float* by_row,
                  int vectors, int64_t begin, int64_t end, float* to);

  // The product with the transposed matrix, of which rows begin to end are added to the
  // packed tile `sums`, with a feature for each column.
  void (*transposed)(const SparseRows& rows, const float* packed, int vectors,
                     int64_t begin, int64_t end, float* sums);

  // Features begin to end of the sum of some packed tiles of `size` floats.
  void (*unpack)(const float* sums, int64_t parts, int64_t size, int vectors,
                 int64_t begin, int64_t end, const Examples& to, int64_t first);

  // The same for a narrow batch: `by_column` and `by_row` are examples of floats.
  void (*narrow_product)(const SparseRows& rows, const Examples& by_column,
                         int64_t begin, int64_t end, const Examples& to);
  // The product with the transposed matrix: features of all columns, of which rows begin
  // to end are added to `to` (examples, columns).
  void (*narrow_transposed)(const SparseRows& rows, const Examples& by_row,
                            int64_t begin, int64_t end, int64_t columns, float* to);
  void (*narrow_sampled)(const SparseRows& rows, const Examples& by_column,
                         const Examples& by_row, int64_t begin, int64_t end, float* to);
};

// The fastest that this processor has.
const SparseSimd& BestSparseSimd();

// All that this processor has, the fastest first, and how many.
int AllSparseSimd(const SparseSimd** found);

}  // namespace sparsenet

#endif  // SPARSENET_SPARSE_SIMD_H_
