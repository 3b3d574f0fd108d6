// TensorFlow's operations for a convolution with sparse filters: see op_support.h, where
// the inputs of W are the entries of a filter, (row, column, channel), as `out` has them.
// `in` has a row for each phase of the strides and channel, and in it indices of (row,
// column, filter).

#include "conv_geometry.h"
#include "op_support.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace sparsenet {
namespace {

class SparseConvBase : public tf::OpKernel {
 public:
  explicit SparseConvBase(tf::OpKernelConstruction* context) : tf::OpKernel(context) {
    const auto pair = [&](const char* name, Pair* found) {
      std::vector<int64_t> values;
      TF_RETURN_IF_ERROR(context->GetAttr(name, &values));
      if (values.size() != 2 || values[0] < 1 || values[1] < 1) {
        return absl::InvalidArgumentError(
            absl::StrCat("`", name, "` must be two numbers of 1 or more"));
      }
      *found = {values[0], values[1]};
      return absl::OkStatus();
    };
    OP_REQUIRES_OK(context, pair("kernel_size", &geometry_.kernel));
    OP_REQUIRES_OK(context, pair("strides", &geometry_.strides));
    OP_REQUIRES_OK(context, pair("dilations", &geometry_.dilations));
    std::string padding;
    OP_REQUIRES_OK(context, context->GetAttr("padding", &padding));
    same_ = padding == "SAME";
  }

 protected:
  ConvGeometry GeometryFor(int64_t height, int64_t width) const {
    ConvGeometry found = geometry_;
    found.SetSize({height, width}, same_);
    return found;
  }

  static View InputOf(const ConvGeometry& geometry, const tf::Tensor& x) {
    return geometry.Input(AsExamples(x), x.dim_size(0));
  }
  static View OutputOf(const ConvGeometry& geometry, const tf::Tensor& y) {
    return geometry.Output(AsExamples(y), y.dim_size(0));
  }

  // What is wrong with the inputs, of which `first` is where the pattern begins.
  tf::Status GetPatterns(tf::OpKernelContext* context, int first, Pattern* out,
                         Pattern* in) {
    TF_RETURN_IF_ERROR(GetPattern(context, first, out));
    TF_RETURN_IF_ERROR(GetPattern(context, first + 2, in));
    const int64_t order = context->input(first + 4).NumElements();
    if (in->nonzeros != out->nonzeros || order != out->nonzeros ||
        in->num_rows % geometry_.Phases() != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "`order` and `in_indices` must have an entry for each of ", out->nonzeros,
          " nonzeros, and `in_splits` be for channels in each of ", geometry_.Phases(),
          " phases. Received: ", order, " and ", in->nonzeros, " entries, and ",
          in->num_rows, " rows"));
    }
    return absl::OkStatus();
  }

  // Multiplies the rows of `pattern` with all that the filters see.
  void Multiply(tf::OpKernelContext* context, ConvShape shape, Pattern pattern,
                const tf::Tensor& values, const int32_t* order) {
    const int64_t nonzeros = pattern.nonzeros;
    const int64_t columns = geometry_.Taps() * shape.from.pixels.features;
    OP_REQUIRES(context, values.NumElements() == nonzeros,
                absl::InvalidArgumentError(absl::StrCat(
                    "`values` must have an entry for each of ", nonzeros,
                    " nonzeros. Received: ", values.NumElements())));
    const int threads = ThreadsFor(context, shape.to.pixels, nonzeros, false);
    const SparseConv conv(BestSparseSimd(), shape);
    OP_REQUIRES(context, conv.Fits(), TooLarge());
    std::atomic<bool> good{true};
    std::vector<Stage> checks =
        CheckPattern(pattern.rows, pattern.num_rows, nonzeros, columns, &good);
    if (order != nullptr) {
      checks.push_back(CheckColumns(order, nonzeros, nonzeros, &good));
    }
    tf::Tensor offsets_tensor, copied_tensor;
    float* copied;
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tf::DT_INT32, tf::TensorShape({nonzeros}),
                                          &offsets_tensor));
    OP_REQUIRES_OK(context, NewFloats(context, nonzeros, &copied_tensor, &copied));
    auto* offsets = offsets_tensor.flat<int32_t>().data();
    Stage copy = values.dtype() == tf::DT_BFLOAT16
                     ? CopyStage(values.flat<tf::bfloat16>().data(), pattern, columns,
                                 order, copied, &good)
                     : CopyStage(values.flat<float>().data(), pattern, columns, order,
                                 copied, &good);
    const SparseRows rows = {pattern.rows.splits, offsets, copied, nullptr, true};
    Run(context,
        {Together(std::move(checks)),
         Together({conv.Offsets(pattern.rows, nonzeros, offsets, &good), std::move(copy)}),
         conv.Product(rows, threads, &good)},
        threads);
    OP_REQUIRES(context, good, BadPattern(pattern, columns));
  }

  static tf::Status TooLarge() {
    return absl::InvalidArgumentError(
        "The images of a batch must have fewer than 2**31 pixels, and so must a row of "
        "them with all channels");
  }

  ConvGeometry geometry_;
  bool same_;
};

tf::Status CheckImages(const char* name, const tf::Tensor& images, int64_t channels) {
  if (images.dims() == 4 && images.dim_size(3) == channels) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("`", name, "` must have shape (images, height, width, ", channels,
                   "). Received: shape ", images.shape().DebugString()));
}

// Inputs: x, values, out_splits, out_indices, in_splits, in_indices, order.
class SparseConvOp : public SparseConvBase {
 public:
  using SparseConvBase::SparseConvBase;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    Pattern out, in;
    OP_REQUIRES_OK(context, GetPatterns(context, 2, &out, &in));
    OP_REQUIRES_OK(context, CheckImages("x", x, in.num_rows / geometry_.Phases()));
    const ConvGeometry geometry = GeometryFor(x.dim_size(1), x.dim_size(2));
    tf::Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0,
                                tf::TensorShape({x.dim_size(0), geometry.output[0],
                                                 geometry.output[1], out.num_rows}),
                                &y));
    if (y->NumElements() == 0) return;
    Multiply(context, geometry.Forward(InputOf(geometry, x), OutputOf(geometry, *y)), out,
             context->input(1), nullptr);
  }
};

// Inputs: upstream, values, size, out_splits, out_indices, in_splits, in_indices, order.
class SparseConvInputOp : public SparseConvBase {
 public:
  using SparseConvBase::SparseConvBase;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& upstream = context->input(0);
    const tf::Tensor& size = context->input(2);
    Pattern out, in;
    OP_REQUIRES_OK(context, GetPatterns(context, 3, &out, &in));
    OP_REQUIRES_OK(context, CheckImages("upstream", upstream, out.num_rows));
    OP_REQUIRES(context,
                size.NumElements() == 2 && size.flat<int32_t>()(0) >= 0 &&
                    size.flat<int32_t>()(1) >= 0,
                absl::InvalidArgumentError("`size` must be a height and a width"));
    const auto sizes = size.flat<int32_t>();
    const ConvGeometry geometry = GeometryFor(sizes(0), sizes(1));
    OP_REQUIRES(
        context,
        upstream.dim_size(1) == geometry.output[0] &&
            upstream.dim_size(2) == geometry.output[1],
        absl::InvalidArgumentError(absl::StrCat(
            "`upstream` must be ", geometry.output[0], " by ", geometry.output[1],
            " for images of ", sizes(0), " by ", sizes(1), ". Received: shape ",
            upstream.shape().DebugString())));
    const int64_t channels = in.num_rows / geometry_.Phases();
    tf::Tensor* to_x = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0,
                                tf::TensorShape({upstream.dim_size(0), sizes(0),
                                                 sizes(1), channels}),
                                &to_x));
    if (to_x->NumElements() == 0) return;
    Multiply(context, geometry.Backward(OutputOf(geometry, upstream), InputOf(geometry, *to_x)),
             in, context->input(1), context->input(7).flat<int32_t>().data());
  }
};

// Inputs: x, upstream, out_splits, out_indices, in_splits, in_indices, order.
class SparseConvValuesOp : public SparseConvBase {
 public:
  using SparseConvBase::SparseConvBase;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    const tf::Tensor& upstream = context->input(1);
    Pattern out, in;
    OP_REQUIRES_OK(context, GetPatterns(context, 2, &out, &in));
    OP_REQUIRES_OK(context, CheckImages("x", x, in.num_rows / geometry_.Phases()));
    OP_REQUIRES_OK(context, CheckImages("upstream", upstream, out.num_rows));
    const ConvGeometry geometry = GeometryFor(x.dim_size(1), x.dim_size(2));
    OP_REQUIRES(context,
                upstream.dim_size(0) == x.dim_size(0) &&
                    upstream.dim_size(1) == geometry.output[0] &&
                    upstream.dim_size(2) == geometry.output[1],
                absl::InvalidArgumentError(absl::StrCat(
                    "`upstream` must be what comes of `x`, shape ",
                    x.shape().DebugString(),
                    ". Received: shape ", upstream.shape().DebugString())));
    const int64_t nonzeros = out.nonzeros;
    tf::Tensor* values = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, tf::TensorShape({nonzeros}), &values));
    if (nonzeros == 0) return;

    const ConvShape shape =
        geometry.Forward(InputOf(geometry, x), OutputOf(geometry, upstream));
    const SparseConv conv(BestSparseSimd(), shape);
    OP_REQUIRES(context, conv.Fits(), TooLarge());
    const int64_t columns = geometry_.Taps() * shape.from.pixels.features;
    const int threads = ThreadsFor(context, shape.to.pixels, nonzeros, false);
    std::atomic<bool> good{true};
    tf::Tensor offsets_tensor, sums_tensor;
    float* sums;
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tf::DT_INT32, tf::TensorShape({nonzeros}),
                                          &offsets_tensor));
    const int64_t parts = std::max<int64_t>(1, conv.Parts());
    OP_REQUIRES_OK(context, NewFloats(context, parts * nonzeros, &sums_tensor, &sums));
    auto* offsets = offsets_tensor.flat<int32_t>().data();
    const SparseRows rows = {out.rows.splits, offsets, nullptr, nullptr, true};
    std::vector<Stage> stages = {
        Together(CheckPattern(out.rows, out.num_rows, nonzeros, columns, &good)),
        conv.Offsets(out.rows, nonzeros, offsets, &good)};
    // Without any pixel nothing is added.
    if (conv.Parts() == 0) std::fill(sums, sums + nonzeros, 0.0f);
    for (Stage& stage : conv.Sampled(rows, nonzeros, threads, sums, &good)) {
      stages.push_back(std::move(stage));
    }
    const auto round = [&](auto* to) {
      using T = std::remove_pointer_t<decltype(to)>;
      stages.push_back(InParts(nonzeros, 1 << 16, [=](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) to[k] = static_cast<T>(sums[k]);
      }));
    };
    if (values->dtype() == tf::DT_BFLOAT16) {
      round(values->flat<tf::bfloat16>().data());
    } else {
      round(values->flat<float>().data());
    }
    Run(context, std::move(stages), threads);
    OP_REQUIRES(context, good, BadPattern(out, columns));
  }
};

using tf::shape_inference::InferenceContext;

tf::Status UnknownImages(InferenceContext* context) {
  context->set_output(0, context->UnknownShapeOfRank(4));
  return absl::OkStatus();
}

#define PATTERN                                                              \
  Input("out_splits: int32")                                                 \
      .Input("out_indices: int32")                                           \
      .Input("in_splits: int32")                                             \
      .Input("in_indices: int32")                                            \
      .Input("order: int32")                                                 \
      .Attr("kernel_size: list(int)")                                        \
      .Attr("strides: list(int)")                                            \
      .Attr("dilations: list(int)")                                          \
      .Attr("padding: {'SAME', 'VALID'}")                                    \
      .Attr("T: {float, bfloat16}")
REGISTER_OP("SparsenetSparseConv")
    .Input("x: T")
    .Input("values: T")
    .PATTERN.Output("y: T")
    .SetShapeFn(UnknownImages);

REGISTER_OP("SparsenetSparseConvInput")
    .Input("upstream: T")
    .Input("values: T")
    .Input("size: int32")
    .PATTERN.Output("to_x: T")
    .SetShapeFn(UnknownImages);

REGISTER_OP("SparsenetSparseConvValues")
    .Input("x: T")
    .Input("upstream: T")
    .PATTERN.Output("values: T")
    .SetShapeFn([](InferenceContext* context) {
      context->set_output(0, context->input(3));
      return absl::OkStatus();
    });
#undef PATTERN

#define REGISTER(name, op)                                                           \
  REGISTER_KERNEL_BUILDER(                                                           \
      Name(name).Device(tf::DEVICE_CPU).TypeConstraint<float>("T"), op);             \
  REGISTER_KERNEL_BUILDER(                                                           \
      Name(name).Device(tf::DEVICE_CPU).TypeConstraint<tf::bfloat16>("T"), op);
REGISTER("SparsenetSparseConv", SparseConvOp)
REGISTER("SparsenetSparseConvInput", SparseConvInputOp)
REGISTER("SparsenetSparseConvValues", SparseConvValuesOp)
#undef REGISTER

}  // namespace
}  // namespace sparsenet
