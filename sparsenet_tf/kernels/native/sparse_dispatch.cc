// Which of the instruction sets that sparse_simd.cc was compiled for this processor has.

#include "sparse_simd.h"

namespace sparsenet {

extern const SparseSimd kPortable;
#if defined(__x86_64__)
extern const SparseSimd kAvx2, kAvx512;
#endif

int AllSparseSimd(const SparseSimd** found) {
  int count = 0;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {
    found[count++] = &kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    found[count++] = &kAvx2;
  }
#endif
  found[count++] = &kPortable;
  return count;
}

const SparseSimd& BestSparseSimd() {
  const SparseSimd* found[3];
  AllSparseSimd(found);
  return *found[0];
}

}  // namespace sparsenet
