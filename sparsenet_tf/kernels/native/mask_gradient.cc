// A value as it is, whose gradient is masked; and that gradient times its mask, in place.
// TensorFlow's own product of two tensors takes three to five times as long for the sizes
// of LeNet-300-100.

#include <cstdint>

#include "elementwise.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace sparsenet {
namespace {

namespace tf = ::tensorflow;

SPARSENET_CLONES
void Multiply(const float* gradient, const float* mask, float* out, int64_t begin,
              int64_t end) {
  for (int64_t i = begin; i < end; ++i) out[i] = gradient[i] * mask[i];
}

class MaskGradientOp : public tf::OpKernel {
 public:
  using tf::OpKernel::OpKernel;

  void Compute(tf::OpKernelContext* context) override {
    const tf::Tensor& gradient = context->input(0);
    const tf::Tensor& mask = context->input(1);
    OP_REQUIRES(context, gradient.shape() == mask.shape(),
                absl::InvalidArgumentError(absl::StrCat(
                    "`mask` must have the gradient's shape ",
                    gradient.shape().DebugString(), ". Received: shape ",
                    mask.shape().DebugString())));
    tf::Tensor* out = nullptr;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output(
                                {0}, 0, gradient.shape(), &out));
    const float* from = gradient.flat<float>().data();
    const float* by = mask.flat<float>().data();
    float* to = out->flat<float>().data();
    ForAll(context, gradient.NumElements(), [=](int64_t begin, int64_t end) {
      Multiply(from, by, to, begin, end);
    });
  }
};

class MaskedIdentityOp : public tf::OpKernel {
 public:
  using tf::OpKernel::OpKernel;

  void Compute(tf::OpKernelContext* context) override {
    context->set_output(0, context->input(0));
  }
};

REGISTER_OP("SparsenetMaskedIdentity")
    .Input("value: float")
    .Input("mask: float")
    .Output("out: float")
    .SetShapeFn([](tf::shape_inference::InferenceContext* context) {
      context->set_output(0, context->input(0));
      return absl::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("SparsenetMaskedIdentity").Device(tf::DEVICE_CPU),
                        MaskedIdentityOp);

REGISTER_OP("SparsenetMaskGradient")
    .Input("gradient: float")
    .Input("mask: float")
    .Output("out: float")
    .SetShapeFn([](tf::shape_inference::InferenceContext* context) {
      tf::shape_inference::ShapeHandle shape;
      TF_RETURN_IF_ERROR(context->Merge(context->input(0), context->input(1), &shape));
      context->set_output(0, shape);
      return absl::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("SparsenetMaskGradient").Device(tf::DEVICE_CPU),
                        MaskGradientOp);

}  // namespace
}  // namespace sparsenet
