// A step of gradient descent of a masked kernel, in one pass: value - rate * gradient
// * mask. TensorFlow's operations take four: two products, a difference, a copy.

#include <cstdint>

#include "elementwise.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace sparsenet {
namespace {

namespace tf = ::tensorflow;

SPARSENET_CLONES
void Descend(const float* value, const float* gradient, const float* mask, float rate,
             float* out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    out[i] = value[i] - rate * (gradient[i] * mask[i]);
  }
}

class MaskedDescentOp : public tf::OpKernel {
 public:
  using tf::OpKernel::OpKernel;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& value = context->input(0);
    const tf::Tensor& gradient = context->input(1);
    const tf::Tensor& mask = context->input(2);
    const tf::Tensor& rate = context->input(3);
    for (const tf::Tensor* other : {&gradient, &mask}) {
      OP_REQUIRES(context, other->shape() == value.shape(),
                  absl::InvalidArgumentError(absl::StrCat(
                      "`gradient` and `mask` must have the value's shape ",
                      value.shape().DebugString(), ". Received: shape ",
                      other->shape().DebugString())));
    }
    OP_REQUIRES(context, rate.NumElements() == 1,
                absl::InvalidArgumentError(absl::StrCat(
                    "`rate` must be a scalar. Received: shape ",
                    rate.shape().DebugString())));
    tf::Tensor* out = nullptr;
    // The gradient's memory: nobody else reads it any more, and it is in the cache.
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output(
                                {1}, 0, value.shape(), &out));
    const float* from = value.flat<float>().data();
    const float* along = gradient.flat<float>().data();
    const float* by = mask.flat<float>().data();
    const float step = rate.flat<float>()(0);
    float* to = out->flat<float>().data();
    ForAll(context, value.NumElements(), [=](int64_t begin, int64_t end) {
      Descend(from, along, by, step, to, begin, end);
    });
  }
};

REGISTER_OP("SparsenetMaskedDescent")
    .Input("value: float")
    .Input("gradient: float")
    .Input("mask: float")
    .Input("rate: float")
    .Output("out: float")
    .SetShapeFn([](tf::shape_inference::InferenceContext* context) {
      tf::shape_inference::ShapeHandle shape;
      TF_RETURN_IF_ERROR(context->Merge(context->input(0), context->input(1), &shape));
      TF_RETURN_IF_ERROR(context->Merge(shape, context->input(2), &shape));
      context->set_output(0, shape);
      return absl::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("SparsenetMaskedDescent").Device(tf::DEVICE_CPU),
                        MaskedDescentOp);

}  // namespace
}  // namespace sparsenet
