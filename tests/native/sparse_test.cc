// The sparse products against sums in double, for every instruction set that this
// processor has, shapes around their widths, and numbers of threads. Built by
// test_sanitizers.py with sanitizers, without TensorFlow.

#include "testing.h"

namespace {

using namespace sparsenet;

struct Problem {
  int64_t inputs, outputs, batch;
  std::vector<int32_t> splits, columns, in_splits, in_columns, order;
  std::vector<float> values, x, upstream;
};

Problem Make(int64_t inputs, int64_t outputs, int64_t batch, double density, int seed) {
  Problem p{inputs, outputs, batch};
  std::mt19937 random(seed);
  std::bernoulli_distribution connected(density);
  std::normal_distribution<float> normal;
  std::vector<std::vector<std::pair<int32_t, int32_t>>> of_input(inputs);
  p.splits = {0};
  for (int32_t j = 0; j < outputs; ++j) {
    for (int32_t i = 0; i < inputs; ++i) {
      if (j == 1 || !connected(random)) continue;  // an output without inputs
      of_input[i].push_back({j, static_cast<int32_t>(p.columns.size())});
      p.columns.push_back(i);
      p.values.push_back(normal(random));
    }
    p.splits.push_back(static_cast<int32_t>(p.columns.size()));
  }
  p.in_splits = {0};
  for (const auto& found : of_input) {
    for (const auto& [j, k] : found) {
      p.in_columns.push_back(j);
      p.order.push_back(k);
    }
    p.in_splits.push_back(static_cast<int32_t>(p.order.size()));
  }
  for (int64_t i = 0; i < batch * inputs; ++i) p.x.push_back(normal(random));
  for (int64_t i = 0; i < batch * outputs; ++i) p.upstream.push_back(normal(random));
  return p;
}

// Exactly as large as they are: a sanitizer sees what is beside.
template <typename T>
std::vector<T> Exactly(const std::vector<T>& values) {
  std::vector<T> copy(values.begin(), values.end());
  copy.shrink_to_fit();
  return copy;
}

void Compare(const char* what, const SparseSimd& simd, const Problem& p,
             const std::vector<float>& found, const std::vector<double>& wanted) {
  char name[100];
  std::snprintf(name, sizeof(name), "%s, %ld -> %ld, batch %ld", what, long(p.inputs),
                long(p.outputs), long(p.batch));
  ::Compare(name, simd.name, found, wanted);
}

void Check(const SparseSimd& simd, const Problem& p, int threads) {
  const int64_t nonzeros = static_cast<int64_t>(p.values.size());
  std::vector<double> y(p.batch * p.outputs), to_x(p.batch * p.inputs), to_values(nonzeros);
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t j = 0; j < p.outputs; ++j) {
      for (int32_t k = p.splits[j]; k < p.splits[j + 1]; ++k) {
        const int64_t in = b * p.inputs + p.columns[k], out = b * p.outputs + j;
        y[out] += double(p.values[k]) * p.x[in];
        to_x[in] += double(p.values[k]) * p.upstream[out];
        to_values[k] += double(p.x[in]) * p.upstream[out];
      }
    }
  }
  auto values = Exactly(p.values), x = Exactly(p.x), upstream = Exactly(p.upstream);
  const auto columns = Exactly(p.columns), in_columns = Exactly(p.in_columns);
  const auto order = Exactly(p.order);
  const SparseRows out = {p.splits.data(), columns.data(), values.data(), nullptr};
  const SparseRows in = {p.in_splits.data(), in_columns.data(), values.data(),
                         order.data()};
  const Examples inputs = {x.data(), false, p.batch, p.inputs};
  const Examples outputs = {upstream.data(), false, p.batch, p.outputs};
  std::atomic<bool> good{true};
  const SparseMatmul matmul(simd, p.batch, threads);
  std::vector<float> found_y(y.size(), NAN), found_x(to_x.size(), NAN);
  std::vector<float> found_values(nonzeros, 0.0f);
  const Examples to_y = {found_y.data(), false, p.batch, p.outputs};
  const Examples to_inputs = {found_x.data(), false, p.batch, p.inputs};
  std::vector<float> packed(matmul.TilesAtOnce() * matmul.TileSize(p.inputs + p.outputs));

  Run({Together(CheckPattern(out, p.outputs, nonzeros, p.inputs, &good)),
       Together(CheckPattern(in, p.inputs, nonzeros, p.outputs, &good))},
      threads);
  if (!good) {
    std::printf("a pattern is refused\n");
    ++failures;
  }
  Run(matmul.Product(out, inputs, to_y, packed.data(), {}, &good), threads);
  Compare("product", simd, p, found_y, y);
  Run(matmul.Product(in, outputs, to_inputs, packed.data(), {}, &good), threads);
  Compare("transposed", simd, p, found_x, to_x);
  if (matmul.Tiles() == 1) {
    std::fill(found_x.begin(), found_x.end(), NAN);
    std::vector<float> sums(matmul.Parts(nonzeros) * matmul.TileSize(p.inputs));
    Run(matmul.Transposed(out, outputs, to_inputs, nonzeros, packed.data(), sums.data(),
                          &good),
        threads);
    Compare("transposed in place", simd, p, found_x, to_x);
  }
  Run(matmul.Sampled(out, inputs, outputs, packed.data(), {}, found_values.data(), &good),
      threads);
  Compare("sampled", simd, p, found_values, to_values);
  if (p.batch > kNarrow) return;
  std::fill(found_y.begin(), found_y.end(), NAN);
  std::fill(found_x.begin(), found_x.end(), NAN);
  std::fill(found_values.begin(), found_values.end(), NAN);
  Run({matmul.NarrowProduct(out, inputs, to_y, &good)}, threads);
  Compare("narrow product", simd, p, found_y, y);
  std::vector<float> sums(matmul.Parts(nonzeros) * found_x.size());
  Run(matmul.NarrowTransposed(out, outputs, to_inputs, nonzeros, sums.data(), &good),
      threads);
  Compare("narrow transposed", simd, p, found_x, to_x);
  Run({matmul.NarrowSampled(out, inputs, outputs, found_values.data(), &good)}, threads);
  Compare("narrow sampled", simd, p, found_values, to_values);
}

void CheckBfloat16(const SparseSimd& simd) {
  // Whole numbers of at most 8 bits are exact.
  const int64_t batch = 21, features = 37;
  std::vector<uint16_t> bits(batch * features), back(batch * features);
  for (size_t i = 0; i < bits.size(); ++i) {
    const float value = float(i % 200) - 100;
    uint32_t wide;
    __builtin_memcpy(&wide, &value, sizeof(wide));
    bits[i] = static_cast<uint16_t>(wide >> 16);
  }
  const Examples from = {bits.data(), true, batch, features};
  const Examples to = {back.data(), true, batch, features};
  std::vector<int32_t> splits, columns;
  std::vector<float> ones(features, 1.0f);
  for (int32_t i = 0; i <= features; ++i) splits.push_back(i);
  for (int32_t i = 0; i < features; ++i) columns.push_back(i);
  const SparseMatmul matmul(simd, batch, 1);
  std::vector<float> packed(matmul.TilesAtOnce() * matmul.TileSize(features));
  std::atomic<bool> good{true};
  const SparseRows identity = {splits.data(), columns.data(), ones.data(), nullptr};
  Run(matmul.Product(identity, from, to, packed.data(), {}, &good), 1);
  if (bits != back) {
    std::printf("bfloat16 is changed by %s\n", simd.name);
    ++failures;
  }
}

}  // namespace

int main() {
  const SparseSimd* found[3];
  const int count = AllSparseSimd(found);
  int checks = 0;
  for (int s = 0; s < count; ++s) {
    for (int64_t batch : {1, 2, 3, 4, 7, 8, 16, 17, 33, 64, 65, 130}) {
      for (auto [inputs, outputs, density] :
           {std::tuple<int, int, double>{1, 1, 1.0}, {5, 3, 0.5}, {33, 47, 0.1},
            {40, 70, 0.0}, {64, 32, 1.0}, {300, 100, 0.05}}) {
        for (int threads : {1, 2, 5}) {
          Check(*found[s], Make(inputs, outputs, batch, density, checks), threads);
          ++checks;
        }
      }
    }
    CheckBfloat16(*found[s]);
  }
  return Finish(checks, count);
}
