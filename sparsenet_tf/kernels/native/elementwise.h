// How the element-wise operations are vectorized and cut into threads.

#ifndef SPARSENET_ELEMENTWISE_H_
#define SPARSENET_ELEMENTWISE_H_

#include <algorithm>
#include <cstdint>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/util/work_sharder.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#define SPARSENET_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SPARSENET_CLONES
#endif

namespace sparsenet {

// Below this, waking a second thread takes longer than the work.
constexpr int64_t kElementsOfAThread = 1 << 18;

// Calls work(begin, end) on parts of 0..size, in TensorFlow's own threads.
template <typename Work>
void ForAll(::tensorflow::OpKernelContext* context, int64_t size, const Work& work) {
  const auto* workers = context->device()->tensorflow_cpu_worker_threads();
  const int64_t threads = size / kElementsOfAThread + 1;
  if (threads == 1) {
    work(0, size);
    return;
  }
  const int most = static_cast<int>(std::min<int64_t>(threads, workers->num_threads));
  ::tensorflow::Shard(most, workers->workers, size, /*cost_per_unit=*/2, work);
}

}  // namespace sparsenet

#endif  // SPARSENET_ELEMENTWISE_H_
