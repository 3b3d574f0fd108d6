// TensorFlow's operations for a layer with a sparse matrix: see op_support.h.

#include "op_support.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace sparsenet {
namespace {

// Inputs: x, values, out_splits, out_indices, in_splits, in_indices, order.
class SparseMatmulOp : public tf::OpKernel {
 public:
  explicit SparseMatmulOp(tf::OpKernelConstruction* context) : tf::OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("transpose", &transpose_));
  }

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    const tf::Tensor& values = context->input(1);
    const tf::Tensor& order = context->input(6);
    OP_REQUIRES(context, x.dims() == 2,
                absl::InvalidArgumentError(absl::StrCat(
                    "`x` must have two axes. Received: shape ", x.shape().DebugString())));
    Pattern out, in;
    OP_REQUIRES_OK(context, GetPattern(context, 2, &out));
    OP_REQUIRES_OK(context, GetPattern(context, 4, &in));
    const int64_t nonzeros = out.nonzeros;
    OP_REQUIRES(context,
                values.NumElements() == nonzeros && order.NumElements() == nonzeros &&
                    in.nonzeros == nonzeros,
                absl::InvalidArgumentError(absl::StrCat(
                    "`values`, `order` and `in_indices` must have an entry for each of ",
                    nonzeros, " nonzeros. Received: ", values.NumElements(), ", ",
                    order.NumElements(), " and ", in.nonzeros)));
    Pattern pattern = transpose_ ? in : out;
    const int64_t features = transpose_ ? out.num_rows : in.num_rows;
    OP_REQUIRES(context, x.dim_size(1) == features,
                absl::InvalidArgumentError(absl::StrCat("`x` must have ", features,
                                                        " columns. Received: shape ",
                                                        x.shape().DebugString())));
    tf::Tensor* y = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(
                       0, tf::TensorShape({x.dim_size(0), pattern.num_rows}), &y));
    if (y->NumElements() == 0) return;

    const Examples from = AsExamples(x), to = AsExamples(*y);
    const bool narrow = from.count <= kNarrow && !from.bfloat16;
    const int threads = ThreadsFor(context, from, nonzeros, narrow);
    const SparseMatmul matmul(BestSparseSimd(), from.count, threads);
    std::atomic<bool> good{true};
    if (narrow) {
      // A narrow batch needs no other rows than those that have the values in order.
      out.rows.values = values.flat<float>().data();
      std::vector<Stage> stages = {
          Together(CheckPattern(out.rows, out.num_rows, nonzeros, in.num_rows, &good))};
      tf::Tensor sums_tensor;
      if (transpose_) {
        float* sums;
        OP_REQUIRES_OK(context,
                       NewFloats(context, matmul.Parts(nonzeros) * y->NumElements(),
                                 &sums_tensor, &sums));
        for (Stage& stage :
             matmul.NarrowTransposed(out.rows, from, to, nonzeros, sums, &good)) {
          stages.push_back(std::move(stage));
        }
      } else {
        stages.push_back(matmul.NarrowProduct(out.rows, from, to, &good));
      }
      Run(context, std::move(stages), threads);
      OP_REQUIRES(context, good, BadPattern(out, in.num_rows));
      return;
    }
    // With many nonzeros and one tile, too, values are better taken as they come.
    constexpr int64_t kManyNonzeros = 1 << 20;
    if (transpose_ && matmul.Tiles() == 1 && nonzeros > kManyNonzeros &&
        !from.bfloat16) {
      out.rows.values = values.flat<float>().data();
      float *packed, *sums;
      tf::Tensor packed_tensor, sums_tensor;
      OP_REQUIRES_OK(context, NewFloats(context, matmul.TileSize(from.features),
                                        &packed_tensor, &packed));
      OP_REQUIRES_OK(context,
                     NewFloats(context, matmul.Parts(nonzeros) * matmul.TileSize(to.features),
                               &sums_tensor, &sums));
      std::vector<Stage> stages = {
          Together(CheckPattern(out.rows, out.num_rows, nonzeros, in.num_rows, &good))};
      for (Stage& stage : matmul.Transposed(out.rows, from, to, nonzeros, packed, sums,
                                            &good)) {
        stages.push_back(std::move(stage));
      }
      Run(context, std::move(stages), threads);
      OP_REQUIRES(context, good, BadPattern(out, in.num_rows));
      return;
    }
    std::vector<Stage> checks =
        CheckPattern(pattern.rows, pattern.num_rows, nonzeros, features, &good);
    const int32_t* at = transpose_ ? order.flat<int32_t>().data() : nullptr;
    if (transpose_) checks.push_back(CheckColumns(at, nonzeros, nonzeros, &good));
    std::vector<Stage> stages = {Together(std::move(checks))};
    float *packed, *copied;
    tf::Tensor packed_tensor, copied_tensor;
    OP_REQUIRES_OK(context, NewFloats(context,
                                      matmul.TilesAtOnce() * matmul.TileSize(from.features),
                                      &packed_tensor, &packed));
    std::vector<Stage> also;
    // For one tile, values are better found where they are than copied in order first.
    const bool copy = from.bfloat16 || (transpose_ && matmul.Tiles() > 1);
    if (copy) {
      OP_REQUIRES_OK(context, NewFloats(context, nonzeros, &copied_tensor, &copied));
      pattern.rows.values = copied;
      also.push_back(from.bfloat16 ? CopyStage(values.flat<tf::bfloat16>().data(), pattern,
                                               from.features, at, copied, &good)
                                   : CopyStage(values.flat<float>().data(), pattern,
                                               from.features, at, copied, &good));
    } else {
      pattern.rows.values = values.flat<float>().data();
      pattern.rows.order = at;
    }
    for (Stage& stage :
         matmul.Product(pattern.rows, from, to, packed, std::move(also), &good)) {
      stages.push_back(std::move(stage));
    }
    Run(context, std::move(stages), threads);
    OP_REQUIRES(context, good, BadPattern(pattern, from.features));
  }

 private:
  bool transpose_;
};

// Inputs: x, y, out_splits, out_indices, in_splits, in_indices, order.
class SampledMatmulOp : public tf::OpKernel {
 public:
  using tf::OpKernel::OpKernel;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& x = context->input(0);
    const tf::Tensor& y = context->input(1);
    OP_REQUIRES(context,
                x.dims() == 2 && y.dims() == 2 && x.dim_size(0) == y.dim_size(0),
                absl::InvalidArgumentError(absl::StrCat(
                    "`x` and `y` must have two axes, the first as long. Received: shapes ",
                    x.shape().DebugString(), " and ", y.shape().DebugString())));
    Pattern pattern;
    OP_REQUIRES_OK(context, GetPattern(context, 2, &pattern));
    const int64_t nonzeros = pattern.nonzeros;
    OP_REQUIRES(context, y.dim_size(1) == pattern.num_rows,
                absl::InvalidArgumentError(absl::StrCat(
                    "`y` must have ", pattern.num_rows, " columns. Received: shape ",
                    y.shape().DebugString())));
    tf::Tensor* values = nullptr;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, tf::TensorShape({nonzeros}), &values));
    if (nonzeros == 0) return;

    const Examples by_column = AsExamples(x), by_row = AsExamples(y);
    const bool narrow = by_row.count <= kNarrow && !by_row.bfloat16;
    const int threads = ThreadsFor(context, by_column, nonzeros, narrow);
    const SparseMatmul matmul(BestSparseSimd(), by_row.count, threads);
    std::atomic<bool> good{true};
    std::vector<Stage> also = CheckPattern(pattern.rows, pattern.num_rows, nonzeros,
                                           by_column.features, &good);
    if (narrow) {
      Run(context,
          {Together(std::move(also)),
           matmul.NarrowSampled(pattern.rows, by_column, by_row,
                                values->flat<float>().data(), &good)},
          threads);
      OP_REQUIRES(context, good, BadPattern(pattern, by_column.features));
      return;
    }
    const int64_t features = by_column.features + by_row.features;
    float *packed, *sums;
    tf::Tensor packed_tensor, sums_tensor;
    OP_REQUIRES_OK(context, NewFloats(context,
                                      matmul.TilesAtOnce() * matmul.TileSize(features),
                                      &packed_tensor, &packed));
    if (by_row.bfloat16) {
      OP_REQUIRES_OK(context, NewFloats(context, nonzeros, &sums_tensor, &sums));
    } else {
      sums = values->flat<float>().data();
    }
    const auto clear = [sums](int64_t begin, int64_t end) {
      std::fill(sums + begin, sums + end, 0.0f);
    };
    also.push_back(InParts(nonzeros, 1 << 16, clear));
    std::vector<Stage> stages = matmul.Sampled(pattern.rows, by_column, by_row, packed,
                                               std::move(also), sums, &good);
    if (by_row.bfloat16) {
      auto* rounded = values->flat<tf::bfloat16>().data();
      stages.push_back(InParts(nonzeros, 1 << 16, [=](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) rounded[k] = tf::bfloat16(sums[k]);
      }));
    }
    Run(context, stages, threads);
    OP_REQUIRES(context, good, BadPattern(pattern, by_column.features));
  }
};

using tf::shape_inference::InferenceContext;

REGISTER_OP("SparsenetSparseMatmul")
    .Input("x: T")
    .Input("values: T")
    .Input("out_splits: int32")
    .Input("out_indices: int32")
    .Input("in_splits: int32")
    .Input("in_indices: int32")
    .Input("order: int32")
    .Output("y: T")
    .Attr("transpose: bool = false")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](InferenceContext* context) {
      bool transpose;
      TF_RETURN_IF_ERROR(context->GetAttr("transpose", &transpose));
      tf::shape_inference::ShapeHandle x, splits;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 2, &x));
      TF_RETURN_IF_ERROR(
          context->WithRank(context->input(transpose ? 4 : 2), 1, &splits));
      tf::shape_inference::DimensionHandle rows;
      TF_RETURN_IF_ERROR(context->Subtract(context->Dim(splits, 0), 1, &rows));
      context->set_output(0, context->Matrix(context->Dim(x, 0), rows));
      return absl::OkStatus();
    });

REGISTER_OP("SparsenetSampledMatmul")
    .Input("x: T")
    .Input("y: T")
    .Input("out_splits: int32")
    .Input("out_indices: int32")
    .Input("in_splits: int32")
    .Input("in_indices: int32")
    .Input("order: int32")
    .Output("values: T")
    .Attr("T: {float, bfloat16}")
    .SetShapeFn([](InferenceContext* context) {
      context->set_output(0, context->input(3));
      return absl::OkStatus();
    });

#define REGISTER(type)                                                                 \
  REGISTER_KERNEL_BUILDER(                                                             \
      Name("SparsenetSparseMatmul").Device(tf::DEVICE_CPU).TypeConstraint<type>("T"),  \
      SparseMatmulOp);                                                                 \
  REGISTER_KERNEL_BUILDER(                                                             \
      Name("SparsenetSampledMatmul").Device(tf::DEVICE_CPU).TypeConstraint<type>("T"), \
      SampledMatmulOp);
REGISTER(float)
REGISTER(tf::bfloat16)
#undef REGISTER

}  // namespace
}  // namespace sparsenet
