// Convolutions of images with sparse filters, as stages of work for several threads.
//
// A tile is some rows of the output's pixels, for a few images whose pixels are side by
// side: pixel x of image i is at x * images + i of its row. What the filters see of the
// input is packed in the same way, in longer and more rows. So an entry of a filter is at
// a fixed distance from the pixel that it is for, and a nonzero is one scalar times a few
// vectors that begin at an offset, as in other sparse products; no patches are made.

#ifndef SPARSENET_SPARSE_CONV_H_
#define SPARSENET_SPARSE_CONV_H_

#include <array>
#include <limits>
#include <memory>
#include <mutex>
#include <new>

#include "sparse_matmul.h"

namespace sparsenet {

// Images of which every `step`th pixel is taken, beginning with one of some origins: the
// phases of a convolution with strides, each of them a smaller image.
struct View {
  Examples pixels;  // (images * height * width, channels)
  int64_t images, height, width;
  std::array<int64_t, 2> step;
  std::vector<std::array<int64_t, 2>> origins;

  int64_t Phases() const { return static_cast<int64_t>(origins.size()); }

  // Which row of `pixels` a pixel of a phase is, or -1 if there is none.
  int32_t RowOf(int64_t phase, int64_t image, int64_t y, int64_t x) const {
    y = y * step[0] + origins[phase][0];
    x = x * step[1] + origins[phase][1];
    if (image >= images || y < 0 || y >= height || x < 0 || x >= width) return -1;
    return static_cast<int32_t>((image * height + y) * width + x);
  }
};

// Where an entry of the filters reads: in which phase, and how many pixels further.
struct Tap {
  int64_t phase, y, x;
};

// What a convolution reads and writes. It writes a pixel of each phase of `to` for each
// of a grid of `height` and `width`.
struct ConvShape {
  View from, to;
  std::vector<Tap> taps;
  int64_t height, width;
};

// Buffers of one size, for as many tasks as run at once.
class Scratch {
 public:
  Scratch(int64_t count, int64_t floats, int64_t rows) {
    for (int64_t i = 0; i < count; ++i) {
      free_.push_back({Floats(static_cast<float*>(::operator new[](
                           std::max<int64_t>(1, floats) * sizeof(float), kAlignment))),
                       std::unique_ptr<int32_t[]>(new int32_t[rows])});
    }
  }

  // Where vectors begin with a line of the cache, most loads take one of them.
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(float* floats) const { ::operator delete[](floats, kAlignment); }
  };
  using Floats = std::unique_ptr<float[], Delete>;
  struct Buffer {
    Floats floats;
    std::unique_ptr<int32_t[]> rows;
  };

  Buffer Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    Buffer taken = std::move(free_.back());
    free_.pop_back();
    return taken;
  }
  void Return(Buffer buffer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(buffer));
  }

 private:
  std::mutex mutex_;
  std::vector<Buffer> free_;
};

class SparseConv {
 public:
  SparseConv(const SparseSimd& simd, ConvShape shape)
      : simd_(simd), shape_(std::move(shape)) {
    for (const Tap& tap : shape_.taps) {
      reach_y_ = std::max(reach_y_, tap.y);
      reach_x_ = std::max(reach_x_, tap.x);
    }
    Plan();
  }

  // Whether offsets and rows are numbers that fit.
  bool Fits() const {
    constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
    return PackedSize() <= kMost && Pixels(shape_.from) <= kMost &&
           Pixels(shape_.to) <= kMost;
  }

  // At which float of a packed tile a nonzero begins to read, in place of its column,
  // which is a tap and a channel of it.
  Stage Offsets(const SparseRows& rows, int64_t nonzeros, int32_t* offsets,
                const std::atomic<bool>* good) const {
    const int64_t channels = shape_.from.pixels.features, step = PackedPixels();
    std::vector<int64_t> first;
    for (const Tap& tap : shape_.taps) {
      first.push_back(tap.phase * channels * step + tap.y * pitch_ + tap.x * group_);
    }
    return InParts(nonzeros, 1 << 14, [=](int64_t begin, int64_t end) {
      if (!*good) return;
      for (int64_t k = begin; k < end; ++k) {
        const int64_t column = rows.columns[k];
        offsets[k] = static_cast<int32_t>(first[column / channels] +
                                          column % channels * step);
      }
    });
  }

  // Each pixel and row of the matrix: the row times what the filters see there. A phase
  // of `to` has as many rows of the matrix as `to` has channels.
  Stage Product(const SparseRows& rows, int threads,
                const std::atomic<bool>* good) const {
    const int64_t features = shape_.to.pixels.features;
    const int64_t phases = shape_.to.Phases();
    const auto scratch = NewScratch(threads, 0, phases * rows_ * TileWidth());
    return {Units(), [=](int64_t unit) {
              if (!*good) return;
              Scratch::Buffer buffer = scratch->Take();
              const Tile tile = TileOf(unit);
              int32_t* seen = buffer.rows.get();
              PackInput(tile, seen, buffer.floats.get());
              int32_t* written = seen + PackedPixels();
              const int64_t width = tile.vectors * simd_.lanes;
              for (int64_t phase = 0; phase < phases; ++phase) {
                Examples to = ListRows(shape_.to, phase, tile, tile.rows, width, written);
                SparseRows of_phase = rows;
                of_phase.splits += phase * features;
                for (int64_t begin = 0; begin < features; begin += kRows) {
                  const int64_t end = std::min(begin + kRows, features);
                  for (int64_t y = 0; y < tile.rows; ++y) {
                    simd_.product(of_phase, buffer.floats.get() + y * pitch_,
                                  tile.vectors, begin, end, to, y * width);
                  }
                }
              }
              scratch->Return(std::move(buffer));
            }};
  }

  // For each nonzero, what its column and its row have at each pixel, multiplied and
  // summed over all pixels. Each of `Parts()` adds up some tiles, always the same ones
  // and in one order, into sums of its own.
  //
  // Args:
  //   rows: of the matrix, each for a channel of `to`, from which it is read here.
  //   sums: room for `Parts()` times as many floats as there are nonzeros.
  std::vector<Stage> Sampled(const SparseRows& rows, int64_t nonzeros, int threads,
                             float* sums, const std::atomic<bool>* good) const {
    const int64_t features = shape_.to.pixels.features;
    const int64_t size = rows_ * TileWidth();
    const auto scratch = NewScratch(threads, size * features, size);
    const int64_t parts = Parts();
    const auto add = [=](int64_t part) {
      if (!*good) return;
      float* mine = sums + part * nonzeros;
      std::fill(mine, mine + nonzeros, 0.0f);
      Scratch::Buffer buffer = scratch->Take();
      int32_t *seen = buffer.rows.get(), *read = seen + PackedPixels();
      float *packed = buffer.floats.get(), *by_row = packed + PackedSize();
      const int64_t last = (part + 1) * Units() / parts;
      for (int64_t unit = part * Units() / parts; unit < last; ++unit) {
        const Tile tile = TileOf(unit);
        PackInput(tile, seen, packed);
        const int64_t width = tile.vectors * simd_.lanes;
        const Examples from = ListRows(shape_.to, 0, tile, tile.rows, width, read);
        for (int64_t y = 0; y < tile.rows; ++y) {
          simd_.pack(from, y * width, tile.vectors, 0, features,
                     by_row + y * width * features);
        }
        for (int64_t begin = 0; begin < features; begin += kRows) {
          const int64_t end = std::min(begin + kRows, features);
          for (int64_t y = 0; y < tile.rows; ++y) {
            simd_.sampled(rows, packed + y * pitch_, by_row + y * width * features,
                          tile.vectors, begin, end, mine);
          }
        }
      }
      scratch->Return(std::move(buffer));
    };
    const auto collect = [=](int64_t begin, int64_t end) {
      if (!*good) return;
      for (int64_t part = 1; part < parts; ++part) {
        for (int64_t k = begin; k < end; ++k) sums[k] += sums[part * nonzeros + k];
      }
    };
    return {{parts, add}, InParts(nonzeros, 1 << 12, collect)};
  }
  int64_t Parts() const { return std::min<int64_t>(kParts, Units()); }

 private:
  static constexpr int64_t kRows = 32;    // whose nonzeros stay in the nearest cache
  static constexpr int64_t kParts = 16;   // whatever the threads, for one result
  static constexpr int64_t kFloats = 1 << 18;  // of a packed tile, in the next cache

  // Rows `first` to `first + rows` of some vectors of pixels, for the images of a group.
  struct Tile {
    int64_t group, first, rows, begin;  // where in a row the vectors begin
    int vectors;
  };

  static int64_t Pixels(const View& view) {
    return view.images * view.height * view.width;
  }

  // How many images are side by side, and how many rows a tile has. Rows that end within
  // a vector waste the rest of it, and so do images that are not there. Vectors that do
  // not begin with a line of the cache take two of them.
  void Plan() {
    double least = std::numeric_limits<double>::infinity();
    int64_t best = 1;
    for (int64_t group = 1; group <= std::min<int64_t>(shape_.to.images, 16); ++group) {
      SetGroup(group);
      if (group > 1 && PackedSize() > kFloats) break;
      double lines = 0;
      for (const Tap& tap : shape_.taps) lines += tap.x * group % simd_.lanes ? 2 : 1;
      lines /= static_cast<double>(shape_.taps.size());
      // A nonzero's own work is about that of a vector.
      const double cost = static_cast<double>(groups_) *
                          (static_cast<double>(vectors_) * lines + segments_);
      if (cost < least) {
        least = cost;
        best = group;
      }
    }
    SetGroup(best);
    const int64_t units_of_row = groups_ * segments_;
    int64_t blocks = std::max<int64_t>(1, (kParts + units_of_row - 1) / units_of_row);
    for (blocks = std::min(blocks, shape_.height); blocks < shape_.height; ++blocks) {
      SetBlocks(blocks);
      if (PackedSize() <= kFloats) return;
    }
    SetBlocks(shape_.height);
  }

  void SetGroup(int64_t group) {
    group_ = group;
    groups_ = (shape_.to.images + group - 1) / group;
    vectors_ = (shape_.width * group + simd_.lanes - 1) / simd_.lanes;
    segments_ = (vectors_ + simd_.most_vectors - 1) / simd_.most_vectors;
    const int64_t seen = TileWidth() + reach_x_ * group;
    pitch_ = (seen + simd_.lanes - 1) / simd_.lanes * simd_.lanes;
    SetBlocks(shape_.height);
  }

  void SetBlocks(int64_t blocks) {
    blocks_ = std::max<int64_t>(1, blocks);
    rows_ = (shape_.height + blocks_ - 1) / blocks_;
    packed_rows_ = rows_ + reach_y_;
  }

  int64_t Units() const {
    return shape_.height * shape_.width == 0 ? 0 : groups_ * segments_ * blocks_;
  }
  int64_t TileWidth() const {
    return (vectors_ + segments_ - 1) / segments_ * simd_.lanes;
  }
  int64_t PackedPixels() const { return packed_rows_ * pitch_; }
  int64_t PackedSize() const {
    return shape_.from.Phases() * shape_.from.pixels.features * PackedPixels();
  }

  std::shared_ptr<Scratch> NewScratch(int threads, int64_t floats, int64_t rows) const {
    return std::make_shared<Scratch>(threads, PackedSize() + floats,
                                     PackedPixels() + rows);
  }

  Tile TileOf(int64_t unit) const {
    const int64_t block = unit % blocks_, segment = unit / blocks_ % segments_;
    const int64_t first = block * shape_.height / blocks_;
    const int64_t begin = segment * vectors_ / segments_;
    const int64_t end = (segment + 1) * vectors_ / segments_;
    return {unit / blocks_ / segments_, first,
            (block + 1) * shape_.height / blocks_ - first, begin * simd_.lanes,
            static_cast<int>(end - begin)};
  }

  // The view's pixels for some rows of a tile, `width` of each, as examples.
  Examples ListRows(const View& view, int64_t phase, const Tile& tile, int64_t rows,
                    int64_t width, int32_t* list) const {
    const bool written = &view == &shape_.to;
    const int64_t end = shape_.width + (written ? 0 : reach_x_);
    for (int64_t y = 0; y < rows; ++y) {
      for (int64_t i = 0; i < width; ++i) {
        const int64_t x = (tile.begin + i) / group_, image = (tile.begin + i) % group_;
        list[y * width + i] =
            x < end ? view.RowOf(phase, tile.group * group_ + image, tile.first + y, x)
                    : -1;
      }
    }
    Examples listed = view.pixels;
    listed.rows = list;
    listed.count = rows * width;
    return listed;
  }

  void PackInput(const Tile& tile, int32_t* list, float* packed) const {
    const View& from = shape_.from;
    const int64_t features = from.pixels.features, rows = tile.rows + reach_y_;
    for (int64_t phase = 0; phase < from.Phases(); ++phase) {
      Examples seen = ListRows(from, phase, tile, rows, pitch_, list);
      simd_.pack(seen, 0, static_cast<int>(packed_rows_ * pitch_ / simd_.lanes), 0,
                 features, packed + phase * features * PackedPixels());
    }
  }

  const SparseSimd& simd_;
  const ConvShape shape_;
  int64_t reach_y_ = 0, reach_x_ = 0;
  int64_t group_ = 1, groups_ = 1, vectors_ = 1, segments_ = 1, pitch_ = 1;
  int64_t blocks_ = 1, rows_ = 1, packed_rows_ = 1;
};

}  // namespace sparsenet

#endif  // SPARSENET_SPARSE_CONV_H_
