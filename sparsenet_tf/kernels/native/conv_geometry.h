// What a convolution reads and writes, from its settings and the size of the images.

#ifndef SPARSENET_CONV_GEOMETRY_H_
#define SPARSENET_CONV_GEOMETRY_H_

#include "sparse_conv.h"

namespace sparsenet {

using Pair = std::array<int64_t, 2>;

struct ConvGeometry {
  Pair kernel, strides, dilations, size, output, before;  // rows and columns

  // How large the output is for images of that size, and how far they are padded.
  void SetSize(const Pair& images, bool same) {
    size = images;
    for (int i = 0; i < 2; ++i) {
      const int64_t seen = (kernel[i] - 1) * dilations[i] + 1, step = strides[i];
      if (same) {
        output[i] = (size[i] + step - 1) / step;
        before[i] = std::max<int64_t>(0, (output[i] - 1) * step + seen - size[i]) / 2;
      } else {
        output[i] = size[i] < seen ? 0 : (size[i] - seen) / step + 1;
        before[i] = 0;
      }
    }
  }

  int64_t Taps() const { return kernel[0] * kernel[1]; }
  int64_t Phases() const { return strides[0] * strides[1]; }

  // Those entries of the filter that are in one phase of the strides read its pixels.
  ConvShape Forward(View from, View to) const {
    ConvShape shape = {std::move(from), std::move(to), {}, output[0], output[1]};
    for (int64_t y = 0; y < kernel[0]; ++y) {
      for (int64_t x = 0; x < kernel[1]; ++x) {
        const int64_t down = y * dilations[0], right = x * dilations[1];
        const int64_t phase = down % strides[0] * strides[1] + right % strides[1];
        shape.taps.push_back({phase, down / strides[0], right / strides[1]});
      }
    }
    return shape;
  }

  // What each pixel of the input gets back: from the outputs before it that saw it.
  ConvShape Backward(View from, View to) const {
    ConvShape shape = Forward(std::move(to), std::move(from));
    std::swap(shape.from, shape.to);
    int64_t reach_y = 0, reach_x = 0;
    for (const Tap& tap : shape.taps) {
      reach_y = std::max(reach_y, tap.y);
      reach_x = std::max(reach_x, tap.x);
    }
    for (Tap& tap : shape.taps) tap = {0, reach_y - tap.y, reach_x - tap.x};
    shape.from.origins = {{-reach_y, -reach_x}};
    shape.height = size[0] == 0 ? 0 : (size[0] - 1 + before[0]) / strides[0] + 1;
    shape.width = size[1] == 0 ? 0 : (size[1] - 1 + before[1]) / strides[1] + 1;
    return shape;
  }

  View Input(const Examples& pixels, int64_t images) const {
    View view = {pixels, images, size[0], size[1], strides, {}};
    for (int64_t y = 0; y < strides[0]; ++y) {
      for (int64_t c = 0; c < strides[1]; ++c) {
        view.origins.push_back({y - before[0], c - before[1]});
      }
    }
    return view;
  }
  View Output(const Examples& pixels, int64_t images) const {
    return {pixels, images, output[0], output[1], {1, 1}, {{0, 0}}};
  }
};

}  // namespace sparsenet

#endif  // SPARSENET_CONV_GEOMETRY_H_
