// The sparse convolutions against sums in double, for every instruction set that this
// processor has, images and filters of many shapes, and numbers of threads. Built by
// test_sanitizers.py with sanitizers, without TensorFlow.

#include "conv_geometry.h"
#include "testing.h"

namespace {

using namespace sparsenet;

struct Case {
  int64_t images, height, width, channels, filters;
  Pair kernel, strides, dilations;
  bool same;
  double density;
};

// A weight: from which place in a filter and channel to which filter.
struct Weight {
  int64_t tap, channel, filter;
  float value;
};

struct Rows {
  std::vector<int32_t> splits, columns, order;
};

// Weights `order` by rows and columns, of which functions are given.
template <typename Row, typename Column>
Rows RowsOf(const std::vector<Weight>& weights, int64_t rows, Row row, Column column) {
  Rows made;
  std::vector<std::vector<int32_t>> of_row(rows);
  for (size_t k = 0; k < weights.size(); ++k) of_row[row(weights[k])].push_back(k);
  made.splits = {0};
  for (auto& found : of_row) {
    std::sort(found.begin(), found.end(), [&](int32_t a, int32_t b) {
      return column(weights[a]) < column(weights[b]);
    });
    for (int32_t k : found) {
      made.order.push_back(k);
      made.columns.push_back(static_cast<int32_t>(column(weights[k])));
    }
    made.splits.push_back(static_cast<int32_t>(made.order.size()));
  }
  return made;
}

void Check(const SparseSimd& simd, const Case& c, int threads, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::bernoulli_distribution connected(c.density);
  ConvGeometry geometry;
  geometry.kernel = c.kernel;
  geometry.strides = c.strides;
  geometry.dilations = c.dilations;
  geometry.SetSize({c.height, c.width}, c.same);
  const auto [out_height, out_width] = geometry.output;

  std::vector<Weight> weights;
  for (int64_t f = 0; f < c.filters; ++f) {
    for (int64_t tap = 0; tap < geometry.Taps(); ++tap) {
      for (int64_t channel = 0; channel < c.channels; ++channel) {
        if (connected(random)) weights.push_back({tap, channel, f, normal(random)});
      }
    }
  }
  const Rows out = RowsOf(
      weights, c.filters, [](const Weight& w) { return w.filter; },
      [&](const Weight& w) { return w.tap * c.channels + w.channel; });
  const Rows in = RowsOf(
      weights, geometry.Phases() * c.channels,
      [&](const Weight& w) {
        const int64_t y = w.tap / c.kernel[1] * c.dilations[0] % c.strides[0];
        const int64_t x = w.tap % c.kernel[1] * c.dilations[1] % c.strides[1];
        return (y * c.strides[1] + x) * c.channels + w.channel;
      },
      [&](const Weight& w) { return w.tap * c.filters + w.filter; });

  std::vector<float> x(c.images * c.height * c.width * c.channels);
  std::vector<float> upstream(c.images * out_height * out_width * c.filters);
  for (float& value : x) value = normal(random);
  for (float& value : upstream) value = normal(random);
  std::vector<double> y(upstream.size()), to_x(x.size()), to_values(weights.size());
  for (int64_t n = 0; n < c.images; ++n) {
    for (int64_t i = 0; i < out_height; ++i) {
      for (int64_t j = 0; j < out_width; ++j) {
        for (size_t k = 0; k < weights.size(); ++k) {
          const Weight& w = weights[k];
          const int64_t row = i * c.strides[0] - geometry.before[0] +
                              w.tap / c.kernel[1] * c.dilations[0];
          const int64_t column = j * c.strides[1] - geometry.before[1] +
                                 w.tap % c.kernel[1] * c.dilations[1];
          if (row < 0 || row >= c.height || column < 0 || column >= c.width) continue;
          const int64_t from =
              ((n * c.height + row) * c.width + column) * c.channels + w.channel;
          const int64_t to = ((n * out_height + i) * out_width + j) * c.filters + w.filter;
          y[to] += double(w.value) * x[from];
          to_x[from] += double(w.value) * upstream[to];
          to_values[k] += double(x[from]) * upstream[to];
        }
      }
    }
  }

  const auto examples = [](std::vector<float>& data, int64_t features) {
    return Examples{data.data(), false, static_cast<int64_t>(data.size()) / features,
                    features};
  };
  const auto multiply = [&](const ConvShape& shape, const Rows& rows,
                            std::vector<float>* to) {
    const int64_t nonzeros = static_cast<int64_t>(weights.size());
    std::fill(to->begin(), to->end(), NAN);
    const SparseConv conv(simd, shape);
    std::vector<float> values;
    for (int32_t k : rows.order) values.push_back(weights[k].value);
    std::vector<int32_t> offsets(nonzeros);
    std::atomic<bool> good{conv.Fits()};
    const SparseRows columns = {rows.splits.data(), rows.columns.data(), nullptr, nullptr};
    const SparseRows ready = {rows.splits.data(), offsets.data(), values.data(), nullptr,
                              true};
    Run({conv.Offsets(columns, nonzeros, offsets.data(), &good),
         conv.Product(ready, threads, &good)},
        threads);
  };
  char name[200];
  std::snprintf(name, sizeof(name),
                "%ld images %ldx%ldx%ld, %ld filters %ldx%ld, strides %ld %ld, "
                "dilations %ld %ld, %s",
                long(c.images), long(c.height), long(c.width), long(c.channels),
                long(c.filters), long(c.kernel[0]), long(c.kernel[1]),
                long(c.strides[0]), long(c.strides[1]), long(c.dilations[0]),
                long(c.dilations[1]), c.same ? "same" : "valid");
  const auto compare = [&](const char* what, const std::vector<float>& found,
                           const std::vector<double>& wanted) {
    ::Compare((std::string(what) + ", " + name).c_str(), simd.name, found, wanted);
  };

  std::vector<float> found_y(y.size()), found_x(x.size());
  multiply(geometry.Forward(geometry.Input(examples(x, c.channels), c.images),
                            geometry.Output(examples(found_y, c.filters), c.images)),
           out, &found_y);
  compare("product", found_y, y);
  multiply(geometry.Backward(geometry.Output(examples(upstream, c.filters), c.images),
                             geometry.Input(examples(found_x, c.channels), c.images)),
           in, &found_x);
  compare("transposed", found_x, to_x);

  const int64_t nonzeros = static_cast<int64_t>(weights.size());
  const ConvShape shape =
      geometry.Forward(geometry.Input(examples(x, c.channels), c.images),
                       geometry.Output(examples(upstream, c.filters), c.images));
  const SparseConv conv(simd, shape);
  std::vector<int32_t> offsets(nonzeros);
  std::vector<float> sums(conv.Parts() * nonzeros, NAN);
  std::atomic<bool> good{true};
  const SparseRows columns = {out.splits.data(), out.columns.data(), nullptr, nullptr};
  const SparseRows ready = {out.splits.data(), offsets.data(), nullptr, nullptr, true};
  std::vector<Stage> stages = {conv.Offsets(columns, nonzeros, offsets.data(), &good)};
  for (Stage& stage : conv.Sampled(ready, nonzeros, threads, sums.data(), &good)) {
    stages.push_back(std::move(stage));
  }
  Run(std::move(stages), threads);
  sums.resize(nonzeros);
  compare("sampled", sums, to_values);
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {1, 1, 1, 1, 1, {1, 1}, {1, 1}, {1, 1}, false, 1.0},
      {3, 5, 7, 3, 4, {3, 2}, {1, 1}, {1, 1}, true, 0.4},
      {17, 8, 8, 5, 33, {3, 3}, {1, 1}, {1, 1}, false, 0.2},
      {33, 4, 4, 20, 9, {4, 4}, {1, 1}, {1, 1}, false, 0.1},
      {2, 9, 10, 6, 5, {3, 3}, {2, 3}, {1, 1}, true, 0.3},
      {2, 9, 10, 6, 5, {2, 1}, {3, 2}, {1, 1}, false, 0.5},
      {2, 11, 12, 4, 7, {3, 2}, {1, 1}, {2, 3}, true, 0.3},
      {1, 3, 150, 4, 7, {3, 3}, {1, 1}, {1, 1}, true, 0.5},
      {1, 40, 20, 70, 3, {5, 5}, {1, 1}, {1, 1}, true, 0.01},
      {2, 4, 4, 3, 40, {3, 3}, {1, 1}, {1, 1}, true, 0.0},
  };
  const SparseSimd* found[3];
  const int count = AllSparseSimd(found);
  int checks = 0;
  for (int s = 0; s < count; ++s) {
    for (const Case& c : cases) {
      for (int threads : {1, 2, 5}) Check(*found[s], c, threads, checks++);
    }
  }
  return Finish(checks, count);
}
