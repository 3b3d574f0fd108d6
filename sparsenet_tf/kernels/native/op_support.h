// What TensorFlow's operations for sparse matrices have in common.
//
// W (inputs, outputs) is given twice, as rows of its transpose ("out": for each output
// its inputs) and as its own rows ("in": for each input its outputs), with the values in
// the first order; `order` says where the second one's values are in it. Indices rise
// within a row.

#ifndef SPARSENET_OP_SUPPORT_H_
#define SPARSENET_OP_SUPPORT_H_

#include <string>

#include "sparse_matmul.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace sparsenet {

namespace tf = ::tensorflow;

// All axes but the last one are examples.
inline Examples AsExamples(const tf::Tensor& tensor) {
  const int64_t features = tensor.dim_size(tensor.dims() - 1);
  return {const_cast<char*>(tensor.tensor_data().data()),
          tensor.dtype() == tf::DT_BFLOAT16,
          features == 0 ? 0 : tensor.NumElements() / features, features};
}

// One of the two ways in which an operation is given its matrix.
struct Pattern {
  SparseRows rows;
  int64_t num_rows, nonzeros;
};

inline tf::Status GetPattern(tf::OpKernelContext* context, int first, Pattern* pattern) {
  const tf::Tensor& splits = context->input(first);
  const tf::Tensor& indices = context->input(first + 1);
  if (splits.dims() != 1 || splits.NumElements() < 1 || indices.dims() != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "Splits must be a vector with an entry, and indices one. Received: shapes ",
        splits.shape().DebugString(), " and ", indices.shape().DebugString()));
  }
  *pattern = {{splits.flat<int32_t>().data(), indices.flat<int32_t>().data(), nullptr,
               nullptr},
              splits.NumElements() - 1,
              indices.NumElements()};
  return absl::OkStatus();
}

inline tf::Status BadPattern(const Pattern& pattern, int64_t columns) {
  return absl::InvalidArgumentError(absl::StrCat(
      "Splits must rise from 0 to ", pattern.nonzeros, ", indices be at least 0 and below ",
      columns, " and `order` at least 0 and below ", pattern.nonzeros));
}

inline int ThreadsFor(tf::OpKernelContext* context, const Examples& from, int64_t nonzeros,
               bool narrow) {
  constexpr int64_t kWorkOfAThread = 1 << 18;  // below it, waking another takes longer
  const int64_t lanes = narrow ? 8 : from.count;  // a vector of nonzeros is gathered
  const int64_t work = lanes * nonzeros + from.count * from.features;
  const int threads = context->device()->tensorflow_cpu_worker_threads()->num_threads;
  return static_cast<int>(std::min<int64_t>(threads, work / kWorkOfAThread + 1));
}

inline void Run(tf::OpKernelContext* context, std::vector<Stage> stages, int threads) {
  auto* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
  RunStages(std::move(stages), threads,
            [pool](std::function<void()> help) { pool->Schedule(std::move(help)); });
}

// The values as floats, in `order` if there is one.
template <typename T>
Stage CopyStage(const T* from, const Pattern& pattern, int64_t columns,
                const int32_t* order, float* to, const std::atomic<bool>* good) {
  if (order == nullptr) {
    return InParts(pattern.nonzeros, 1 << 15, [=](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) to[k] = static_cast<float>(from[k]);
    });
  }
  // In order, each value of a row is in another page of `from`, of which there may be
  // more than a processor finds at once. So columns are taken in blocks whose values
  // are in few pages, each of them a part of every row.
  constexpr int64_t kBytes = 1 << 22, kRows = 512;
  const int64_t bytes = std::max<int64_t>(1, pattern.nonzeros * sizeof(T) / columns);
  const int64_t block = std::max<int64_t>(1, kBytes / bytes);
  return InParts(pattern.num_rows, kRows, [=](int64_t begin, int64_t end) {
    if (!*good) return;
    int32_t next[kRows];
    for (int64_t r = begin; r < end; ++r) next[r - begin] = pattern.rows.splits[r];
    for (int64_t limit = block; limit < columns + block; limit += block) {
      for (int64_t r = begin; r < end; ++r) {
        int32_t k = next[r - begin];
        const int32_t last = pattern.rows.splits[r + 1];
        for (; k < last && pattern.rows.columns[k] < limit; ++k) {
          to[k] = static_cast<float>(from[order[k]]);
        }
        next[r - begin] = k;
      }
    }
  });
}

inline tf::Status NewFloats(tf::OpKernelContext* context, int64_t size, tf::Tensor* tensor,
                     float** data) {
  TF_RETURN_IF_ERROR(
      context->allocate_temp(tf::DT_FLOAT, tf::TensorShape({size}), tensor));
  *data = tensor->flat<float>().data();
  return absl::OkStatus();
}

}  // namespace sparsenet

#endif  // SPARSENET_OP_SUPPORT_H_
