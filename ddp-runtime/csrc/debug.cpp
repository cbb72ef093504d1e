// Where a debugger finds the parts of a tensor in memory, so that it can show one without running code in the process.
// The formatter that reads this table is cargo-ddp/src/editor/debug/lldb/ddp_tensor.py: what changes here changes there.
#include "ddp.h"

#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>
#include <c10/core/TensorImpl.h>
#include <torch/csrc/autograd/variable.h>

#include <cstring>

namespace {
// The members are private or protected, and the offsets must be this libtorch's own. An explicit instantiation may name
// any member ([temp.spec.general]/6), and leaves the pointer to it where we can ask for it.
template <class Tag, auto Pointer>
struct Open {
  friend auto member(Tag) { return Pointer; }
};
#define OPEN(TAG, POINTER)    \
  struct TAG {                \
    friend auto member(TAG);  \
  };                          \
  template struct Open<TAG, POINTER>;

OPEN(Refcount, &c10::intrusive_ptr_target::combined_refcount_)
OPEN(StorageImplPointer, &c10::Storage::storage_impl_)
OPEN(StorageOfTensor, &c10::TensorImpl::storage_)
OPEN(Autograd, &c10::TensorImpl::autograd_meta_)
OPEN(SizesAndStrides, &c10::TensorImpl::sizes_and_strides_)
OPEN(StorageOffset, &c10::TensorImpl::storage_offset_)
OPEN(Numel, &c10::TensorImpl::numel_)
OPEN(Dtype, &c10::TensorImpl::data_type_)
OPEN(OptionalDevice, &c10::TensorImpl::device_opt_)
OPEN(KeySet, &c10::TensorImpl::key_set_)
OPEN(Dim, &c10::impl::SizesAndStrides::size_)
OPEN(Inline, &c10::impl::SizesAndStrides::inlineStorage_)
OPEN(DataPtr, &c10::StorageImpl::data_ptr_)
OPEN(SizeBytes, &c10::StorageImpl::size_bytes_)
OPEN(UniqueVoidPtr, &c10::DataPtr::ptr_)
OPEN(Data, &c10::detail::UniqueVoidPtr::data_)
OPEN(TypeIndex, &caffe2::TypeMeta::index_)
OPEN(DeviceType, &c10::Device::type_)
OPEN(DeviceIndex, &c10::Device::index_)

// Of a pointer to a data member, the ABI (Itanium, 2.3) makes the offset.
template <class Class, class Member>
uint32_t offset(Member Class::* pointer) {
  static_assert(sizeof(pointer) == sizeof(std::ptrdiff_t));
  std::ptrdiff_t value = 0;
  std::memcpy(&value, &pointer, sizeof value);
  return static_cast<uint32_t>(value);
}

// What the reader takes for granted.
static_assert(sizeof(at::Tensor) == sizeof(void*), "a tensor is a pointer to its TensorImpl");
static_assert(sizeof(c10::Storage) == sizeof(void*), "a storage is a pointer to its StorageImpl");
static_assert(sizeof(c10::SymInt) == sizeof(int64_t), "a size is a plain number, unless it is symbolic");
static_assert(sizeof(c10::DispatchKeySet) == sizeof(uint64_t));
static_assert(sizeof(std::optional<c10::Device>) == sizeof(c10::Device) + 1, "the flag is behind the value");
static_assert(sizeof(c10::intrusive_ptr<torch::autograd::Node>) == sizeof(void*));
static_assert(sizeof(c10::DeviceType) == 1 && sizeof(c10::DeviceIndex) == 1);

uint64_t keys(c10::DispatchKey key) { return c10::DispatchKeySet(key).raw_repr(); }
}  // namespace

extern "C" {
const ddp_debug_layout ddp_debug_tensor_layout = {
    {'d', 'd', 'p', 'd', 'b', 'g', '0', '1'},
    sizeof(ddp_debug_layout),
    offset(member(Refcount{})),
    offset(member(StorageOfTensor{})) + offset(member(StorageImplPointer{})),
    offset(member(Autograd{})),
    offset(member(SizesAndStrides{})) + offset(member(Dim{})),
    offset(member(SizesAndStrides{})) + offset(member(Inline{})),
    C10_SIZES_AND_STRIDES_MAX_INLINE_SIZE,
    offset(member(StorageOffset{})),
    offset(member(Numel{})),
    offset(member(Dtype{})) + offset(member(TypeIndex{})),
    offset(member(OptionalDevice{})) + offset(member(DeviceType{})),
    offset(member(OptionalDevice{})) + offset(member(DeviceIndex{})),
    offset(member(OptionalDevice{})) + static_cast<uint32_t>(sizeof(c10::Device)),
    offset(member(KeySet{})),
    offset(member(DataPtr{})) + offset(member(UniqueVoidPtr{})) + offset(member(Data{})),
    offset(member(SizeBytes{})),
    offset(&torch::autograd::AutogradMeta::requires_grad_),
    offset(&torch::autograd::AutogradMeta::grad_fn_),
    offset(&torch::autograd::AutogradMeta::grad_),
    keys(c10::DispatchKey::Conjugate),
    keys(c10::DispatchKey::Negative),
};
}
