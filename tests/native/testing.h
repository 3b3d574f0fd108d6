// What the tests of our C++ have in common: they need no TensorFlow.

#ifndef SPARSENET_TESTING_H_
#define SPARSENET_TESTING_H_

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>

#include "sparse_matmul.h"

inline int failures = 0;

class Helpers {
 public:
  ~Helpers() {
    for (std::thread& thread : threads_) thread.join();
  }
  void operator()(std::function<void()> help) const {
    threads_.emplace_back(std::move(help));
  }

 private:
  mutable std::vector<std::thread> threads_;
};

inline void Run(std::vector<sparsenet::Stage> stages, int threads) {
  Helpers helpers;
  sparsenet::RunStages(std::move(stages), threads, helpers);
}

inline void Compare(const char* what, const char* simd, const std::vector<float>& found,
                    const std::vector<double>& wanted) {
  double scale = 1e-30, error = 0;
  for (double value : wanted) scale = std::max(scale, std::fabs(value));
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double difference = std::fabs(found[i] - wanted[i]);
    error = difference <= error ? error : difference;  // NaN is the largest
  }
  if (!(error / scale <= 1e-5)) {
    std::printf("%s, %s: error %g of %g\n", what, simd, error, scale);
    ++failures;
  }
}

inline int Finish(int checks, int instruction_sets) {
  std::printf("%d problems, %d instruction sets, %d failures\n", checks,
              instruction_sets, failures);
  return failures != 0;
}

#endif  // SPARSENET_TESTING_H_
