// The C ABI of ddp-runtime over PyTorch's c10d, DDP Reducer and fused optimizer kernels.
//
// Every function that can fail returns a `ddp_status`, is noexcept, and fills `error` when it fails; results come back
// through `out` parameters, which are written on success only. A `ddp_tensor` is what tch calls `C_tensor`: a
// `torch::Tensor` on the heap. Its Rust mirror is src/sys; tests/sys.rs compares the
// two.
#pragma once
#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}
using ddp_tensor = at::Tensor;

extern "C" {

enum ddp_status : int32_t { DDP_OK = 0, DDP_ERROR = 1, DDP_TIMEOUT = 2, DDP_UNUSED = 3 };
enum ddp_backend : int32_t { DDP_GLOO = 0, DDP_NCCL = 1 };
enum ddp_reduce_op : int32_t {
  DDP_SUM = 0, DDP_AVG = 1, DDP_PRODUCT = 2, DDP_MIN = 3, DDP_MAX = 4, DDP_BAND = 5, DDP_BOR = 6, DDP_BXOR = 7
};

// `message` is owned by the slot until ddp_error_clear.
struct ddp_error {
  char* message;
};
void ddp_error_clear(ddp_error* error) noexcept;
// Copies `message` into the slot: for callbacks that fail.
void ddp_error_fill(ddp_error* error, const char* message) noexcept;

struct ddp_store;
struct ddp_group;
struct ddp_work;
struct ddp_reducer;
struct ddp_side_stream;
struct ddp_copies;

// --- store.cpp: where ranks meet -----------------------------------------------------------------------------------
struct ddp_tcp_store_options {
  const char* host;
  const char* prefix;   // prepended to every key; "" for none
  int64_t timeout_ms;
  int32_t world_size;
  uint16_t port;
  bool is_server;
  int32_t listen_fd;    // a listening socket that the server takes over, or -1
};
int32_t ddp_store_tcp(const ddp_tcp_store_options* options, ddp_store** out, ddp_error* error) noexcept;
// An in-process store, for a world of one.
int32_t ddp_store_local(ddp_store** out, ddp_error* error) noexcept;
// The same store, seen below `prefix`.
int32_t ddp_store_prefixed(const ddp_store* store, const char* prefix, ddp_store** out, ddp_error* error) noexcept;
void ddp_store_free(ddp_store* store) noexcept;

// --- group.cpp: process groups -------------------------------------------------------------------------------------
struct ddp_group_options {
  ddp_backend backend;
  int32_t rank;
  int32_t world_size;
  int64_t timeout_ms;
  const char* gloo_host;  // address that Gloo binds to, or nullptr for c10d's own choice
  int32_t cuda_device;    // -1 on CPU
  bool high_priority_stream;  // NCCL's kernels go before the model's
  bool eager_init;            // NCCL connects the ranks now, not at the first operation
  // With NCCL, the communicator is split from this group's, which was connected eagerly; or null.
  const ddp_group* split_from;
  int32_t split_color;  // equal on the ranks of the new group, and not negative
  // For traces.
  const char* name;
  const char* description;
  const uint64_t* global_ranks;  // the ranks in the job: world_size numbers
};
bool ddp_has_nccl() noexcept;
int32_t ddp_set_cuda_device(int32_t index, ddp_error* error) noexcept;
int32_t ddp_group_new(const ddp_store* store, const ddp_group_options* options, ddp_group** out, ddp_error* error) noexcept;
enum ddp_group_state : int32_t { DDP_GROUP_OK = 0, DDP_GROUP_TIMED_OUT = 1, DDP_GROUP_BROKEN = 2, DDP_GROUP_NOT_CONNECTED = 3 };
// The part of a rank of `parent` that is in none of the groups that are split from it.
int32_t ddp_group_split_none(const ddp_group* parent, ddp_error* error) noexcept;
// Whether an operation of NCCL's took longer than the group's timeout, or its connections broke, or connecting to the other
// ranks takes longer than `timeout_ms`.
ddp_group_state ddp_group_get_state(const ddp_group* group, int64_t timeout_ms) noexcept;
// A normal end: waits for operations in flight. DDP_TIMEOUT when they take longer than that.
int32_t ddp_group_shutdown(const ddp_group* group, int64_t timeout_ms, ddp_error* error) noexcept;
// Ends operations in flight. Their results are undefined, here and on the other ranks.
void ddp_group_abort(const ddp_group* group) noexcept;
// The last reference aborts the group, unless it was shut down.
void ddp_group_free(ddp_group* group) noexcept;
// Writes the flight recorder's trace of recent operations to TORCH_FR_DUMP_TEMP_FILE plus `rank`: as the pickle that Python's
// tools read, and in a second file as JSON.
int32_t ddp_dump_collectives(int32_t rank, ddp_error* error) noexcept;

// --- collectives.cpp: what ranks do together -----------------------------------------------------------------------
// Each call starts an operation, and gives the work to wait for. The work keeps the tensors alive. Lists hold
// world_size tensors, in the order of ranks. Unless `is_async`, NCCL runs the operation on the current stream.
int32_t ddp_all_reduce(ddp_group* group, ddp_tensor* tensor, ddp_reduce_op op, bool is_async, ddp_work** out, ddp_error* error) noexcept;
int32_t ddp_reduce(ddp_group* group, ddp_tensor* tensor, int32_t dst, ddp_reduce_op op, bool is_async, ddp_work** out,
                   ddp_error* error) noexcept;
int32_t ddp_broadcast(ddp_group* group, ddp_tensor* tensor, int32_t src, bool is_async, ddp_work** out, ddp_error* error) noexcept;
int32_t ddp_all_gather(ddp_group* group, ddp_tensor* const* outputs, ddp_tensor* input, bool is_async, ddp_work** out,
                       ddp_error* error) noexcept;
int32_t ddp_all_gather_into(ddp_group* group, ddp_tensor* output, ddp_tensor* input, bool is_async, ddp_work** out,
                            ddp_error* error) noexcept;
// `outputs` is null except on rank `dst`.
int32_t ddp_gather(ddp_group* group, ddp_tensor* const* outputs, ddp_tensor* input, int32_t dst, bool is_async, ddp_work** out,
                   ddp_error* error) noexcept;
// `inputs` is null except on rank `src`.
int32_t ddp_scatter(ddp_group* group, ddp_tensor* output, ddp_tensor* const* inputs, int32_t src, bool is_async, ddp_work** out,
                    ddp_error* error) noexcept;
int32_t ddp_reduce_scatter(ddp_group* group, ddp_tensor* output, ddp_tensor* const* inputs, ddp_reduce_op op, bool is_async,
                           ddp_work** out, ddp_error* error) noexcept;
int32_t ddp_all_to_all(ddp_group* group, ddp_tensor* const* outputs, ddp_tensor* const* inputs, bool is_async, ddp_work** out,
                       ddp_error* error) noexcept;
int32_t ddp_send(ddp_group* group, ddp_tensor* tensor, int32_t dst, int32_t tag, ddp_work** out,
                 ddp_error* error) noexcept;
int32_t ddp_recv(ddp_group* group, ddp_tensor* tensor, int32_t src, int32_t tag, ddp_work** out,
                 ddp_error* error) noexcept;
struct ddp_p2p_op {
  ddp_tensor* tensor;
  int32_t peer;
  bool is_send;
};
// At least one message, all at the same time: two ranks can send to each other.
int32_t ddp_batch_send_recv(ddp_group* group, const ddp_p2p_op* ops, size_t n, ddp_work** out, ddp_error* error) noexcept;
// Makes `tensors` equal to those of rank `src`, in flat buckets, and waits (c10d's broadcast_coalesced).
int32_t ddp_broadcast_coalesced(ddp_group* group, ddp_tensor* const* tensors, size_t n, int32_t src,
                                ddp_error* error) noexcept;
int32_t ddp_barrier(ddp_group* group, bool is_async, ddp_work** out, ddp_error* error) noexcept;
// Ends on rank 0 with an error that names the ranks that did not arrive (Gloo only).
int32_t ddp_monitored_barrier(ddp_group* group, int64_t timeout_ms, ddp_error* error) noexcept;
// `timeout_ms` 0: the group's own.
int32_t ddp_work_wait(ddp_work* work, int64_t timeout_ms, ddp_error* error) noexcept;
bool ddp_work_is_completed(ddp_work* work) noexcept;
void ddp_work_free(ddp_work* work) noexcept;

// --- reducer.cpp: gradients averaged while backward runs -----------------------------------------------------------
enum ddp_comm_hook : int32_t { DDP_NO_HOOK = 0, DDP_FP16_COMPRESS = 1, DDP_BF16_COMPRESS = 2 };
struct ddp_reducer_options {
  int64_t bucket_cap_bytes;
  int64_t first_bucket_bytes;
  bool find_unused_parameters;
  bool gradient_as_bucket_view;
  bool static_graph;
  bool broadcast_buffers;
  ddp_comm_hook comm_hook;
  bool batched_grad_copy;
};
// Verifies that all ranks hold parameters of the same shapes, and broadcasts those, `frozen` and `buffers` from rank 0.
struct ddp_reducer_tensors {
  ddp_tensor* const* parameters;
  const char* const* names;
  size_t n_parameters;
  ddp_tensor* const* frozen;
  size_t n_frozen;
  ddp_tensor* const* buffers;
  size_t n_buffers;
};
int32_t ddp_reducer_new(ddp_group* group, const ddp_reducer_tensors* tensors, const ddp_reducer_options* options,
                        ddp_reducer** out, ddp_error* error) noexcept;
void ddp_reducer_free(ddp_reducer* reducer) noexcept;
// Around the forward pass; without `sync`, gradients only accumulate. `output` comes back as the tensor to call
// backward on, the caller's to free.
int32_t ddp_reducer_before_forward(ddp_reducer* reducer, bool sync, ddp_error* error) noexcept;
int32_t ddp_reducer_after_forward(ddp_reducer* reducer, bool sync, ddp_tensor* output, ddp_tensor** out,
                                  ddp_error* error) noexcept;
// Writes the order of the `n` parameters in the rebuilt buckets, as indices. False before the first backward pass, and with
// find_unused_parameters, which never rebuilds buckets.
bool ddp_reducer_bucket_order(const ddp_reducer* reducer, size_t* order, size_t n) noexcept;
// Makes the next forward pass rebuild the buckets in this order, which has each of the `n` parameters once.
void ddp_reducer_set_bucket_order(ddp_reducer* reducer, const size_t* order, size_t n) noexcept;
// The first parameter from `index` on whose gradients the reducer gets no more, or -1.
int64_t ddp_reducer_find_lost(const ddp_reducer* reducer, size_t index) noexcept;
// Uneven inputs (torch/nn/parallel: DistributedDataParallel.join): between the two, ranks may take different numbers of
// steps. The end takes part in the others' steps until no rank has inputs, and gives all of them the model of the one that
// came last; without `shadow` it only leaves the mode, after an error.
int32_t ddp_reducer_join_begin(ddp_reducer* reducer, bool divide_by_initial_world_size, ddp_error* error) noexcept;
int32_t ddp_reducer_join_end(ddp_reducer* reducer, bool shadow, ddp_error* error) noexcept;
// c10d's logging data (torch/nn/parallel: _get_ddp_logging_data): `take` is called with each name and value.
int32_t ddp_reducer_logging_data(ddp_reducer* reducer, void (*take)(void* context, const char* name, const char* value),
                                 void* context, ddp_error* error) noexcept;
// Backward of what the forward pass gave; `sync` as there. DDP_UNUSED when parameters got no gradient, so that the others'
// were not averaged: then the message is the names, one per line.
int32_t ddp_reducer_backward(ddp_reducer* reducer, bool sync, ddp_tensor* loss, ddp_error* error) noexcept;

// --- hook.cpp: communication hooks -----------------------------------------------------------------------------------
// A bucket of gradients. All pointers live for the call only; copies of the tensors share their memory.
struct ddp_grad_bucket {
  size_t index;
  bool is_last;
  ddp_tensor* buffer;            // the gradients, flat
  ddp_tensor* const* gradients;  // views of `buffer`, in the shapes of `parameters`
  ddp_tensor* const* parameters;
  size_t n;
};
// Callbacks of a hook; none of them may throw. One that fails gives a `ddp_status` other than DDP_OK and fills `error`.
struct ddp_comm_hook_callbacks {
  void* context;
  // Starts the communication of a bucket. `pending` is then given to `finish` or `drop_pending`, once.
  int32_t (*run)(void* context, const ddp_grad_bucket* bucket, void** pending, ddp_error* error);
  // Gives the tensor to use in place of the bucket's buffer; it is the caller's to free.
  int32_t (*finish)(void* pending, ddp_tensor** out, ddp_error* error);
  void (*drop_pending)(void* pending);
  void (*drop_context)(void* context);
};
// The reducer owns the context from the call on, also when the call fails, as it does for a second hook. `run` and `finish`
// are called while the reducer is locked, one at a time.
int32_t ddp_reducer_register_comm_hook(ddp_reducer* reducer, const ddp_comm_hook_callbacks* callbacks,
                                       ddp_error* error) noexcept;
// Fills one tensor after another with torch.randn from a new CPU generator with this seed.
int32_t ddp_fill_randn(ddp_tensor* const* tensors, size_t n, uint64_t seed, ddp_error* error) noexcept;

// --- optim.cpp: fused optimizer kernels ----------------------------------------------------------------------------
// State tensors come in arrays of `n` pointers, null where there is none yet. A step skips parameters without a
// gradient, and creates the missing states of the others: those pointers are then the caller's to free.
struct ddp_sgd_options {
  double lr, momentum, dampening, weight_decay;
  bool nesterov, maximize;
};
struct ddp_adam_options {
  double lr, beta1, beta2, eps, weight_decay;
  bool amsgrad, maximize;
  bool decoupled;  // AdamW's weight decay instead of Adam's
};
// A GradScaler's tensors, both Float scalars. The kernels read them on the device.
struct ddp_scaling {
  const ddp_tensor* grad_scale;  // what gradients are divided by, in place; null: they are unscaled
  const ddp_tensor* found_inf;   // 1: the step changes nothing
};
// `scaling` is null without a GradScaler.
int32_t ddp_sgd_step(ddp_tensor* const* parameters, ddp_tensor** momentum_buffers, size_t n,
                     const ddp_sgd_options* options, const ddp_scaling* scaling, ddp_error* error) noexcept;
int32_t ddp_adam_step(ddp_tensor* const* parameters, ddp_tensor** exp_avgs, ddp_tensor** exp_avg_sqs,
                      ddp_tensor** max_exp_avg_sqs, ddp_tensor** steps, size_t n, const ddp_adam_options* options,
                      const ddp_scaling* scaling, ddp_error* error) noexcept;
int32_t ddp_zero_grad(ddp_tensor* const* parameters, size_t n, bool set_to_none, ddp_error* error) noexcept;

// --- clip.cpp: norms of gradients, and limits for them -------------------------------------------------------------
// Parameters without a gradient are skipped. A norm is on the first gradient's device; without gradients it is 0.
// torch.nn.utils.get_total_norm
int32_t ddp_grad_norm(ddp_tensor* const* parameters, size_t n, double norm_type, ddp_tensor** out,
                      ddp_error* error) noexcept;
// torch.nn.utils.clip_grad_norm_; `out` is the norm before.
int32_t ddp_clip_grad_norm(ddp_tensor* const* parameters, size_t n, double max_norm, double norm_type, ddp_tensor** out,
                           ddp_error* error) noexcept;
// torch.nn.utils.clip_grad_value_
int32_t ddp_clip_grad_value(ddp_tensor* const* parameters, size_t n, double clip_value, ddp_error* error) noexcept;

// --- amp.cpp: mixed precision --------------------------------------------------------------------------------------
enum ddp_device_type : int32_t { DDP_CPU = 0, DDP_CUDA = 1 };
// A thread's autocast state for a device type: what torch.autocast puts back at its end.
struct ddp_autocast_state {
  ddp_device_type device;
  int32_t dtype;  // c10::ScalarType
  bool enabled;
  bool cache_enabled;
};
// Sets the state, and gives the one before it.
int32_t ddp_autocast_enter(const ddp_autocast_state* state, ddp_autocast_state* previous, ddp_error* error) noexcept;
int32_t ddp_autocast_exit(const ddp_autocast_state* previous, ddp_error* error) noexcept;
// Multiplies the gradients that are there by `inverse_scale` (a Float scalar), and sets `found_inf` (likewise) to 1 if one
// of their values is not finite. Half gradients are an error unless `allow_half`.
int32_t ddp_unscale(ddp_tensor* const* parameters, size_t n, ddp_tensor* found_inf, const ddp_tensor* inverse_scale,
                    bool allow_half, ddp_error* error) noexcept;

// --- side_stream.cpp: copies next to the computation ----------------------------------------------------------------
// A stream of a GPU for copies. Each copy starts after the work that the calling thread's stream of that GPU has been given
// so far: that is the computing stream. No call waits for the GPU but ddp_copies_wait.
int32_t ddp_side_stream_new(int32_t cuda_device, ddp_side_stream** out, ddp_error* error) noexcept;
void ddp_side_stream_free(ddp_side_stream* stream) noexcept;
// Copies a tensor of pinned memory to a new one on the GPU, in the computing stream's memory: before that tensor is used or
// freed, ddp_copies_arrive must be called.
int32_t ddp_side_stream_to_device(ddp_side_stream* stream, const ddp_tensor* from, ddp_tensor** out,
                                  ddp_error* error) noexcept;
// Copies from the GPU to pinned memory, which holds the content after ddp_copies_wait.
int32_t ddp_side_stream_to_host(ddp_side_stream* stream, const ddp_tensor* from, ddp_tensor* to,
                                ddp_error* error) noexcept;
// The end of the copies so far.
int32_t ddp_side_stream_end(ddp_side_stream* stream, ddp_copies** out, ddp_error* error) noexcept;
// Makes the computing stream wait for the copies. The host continues.
int32_t ddp_copies_arrive(const ddp_copies* copies, ddp_error* error) noexcept;
// Whether the copies are done; false for a GPU that is lost.
bool ddp_copies_are_done(const ddp_copies* copies) noexcept;
// Waits for the copies, in any thread.
int32_t ddp_copies_wait(const ddp_copies* copies, ddp_error* error) noexcept;
void ddp_copies_free(ddp_copies* copies) noexcept;
// Page-locked memory of this computer: a tensor of bytes without content.
int32_t ddp_pinned_bytes(int64_t bytes, ddp_tensor** out, ddp_error* error) noexcept;

// --- batch_norm.cpp: batch normalization over all ranks -------------------------------------------------------------
// `weight` and `bias` are null together, and so are the running statistics, which a call updates.
struct ddp_batch_norm {
  const ddp_tensor* weight;
  const ddp_tensor* bias;
  const ddp_tensor* running_mean;
  const ddp_tensor* running_var;
  double momentum;
  double eps;
};
// Normalizes `input` [N, C, ...] by the statistics of all ranks' batches. The backward pass of `out` communicates, too.
int32_t ddp_sync_batch_norm(ddp_group* group, const ddp_tensor* input, const ddp_batch_norm* norm, ddp_tensor** out,
                            ddp_error* error) noexcept;

// --- backends.cpp: settings of libtorch for the whole process -------------------------------------------------------
enum ddp_backend_flag : int32_t { DDP_CUDNN_ALLOW_TF32 = 0, DDP_CUDNN_BENCHMARK = 1, DDP_CUDNN_DETERMINISTIC = 2 };
enum ddp_matmul_precision : int32_t { DDP_PRECISION_HIGHEST = 0, DDP_PRECISION_HIGH = 1, DDP_PRECISION_MEDIUM = 2 };
int32_t ddp_set_backend_flag(ddp_backend_flag flag, bool value, ddp_error* error) noexcept;
int32_t ddp_get_backend_flag(ddp_backend_flag flag, bool* out, ddp_error* error) noexcept;
int32_t ddp_set_matmul_precision(ddp_matmul_precision precision, ddp_error* error) noexcept;
int32_t ddp_get_matmul_precision(ddp_matmul_precision* out, ddp_error* error) noexcept;
int32_t ddp_set_deterministic(bool enabled, bool warn_only, ddp_error* error) noexcept;
int32_t ddp_get_deterministic(bool* enabled, bool* warn_only, ddp_error* error) noexcept;

// --- cuda.cpp: streams, events and memory of GPUs -------------------------------------------------------------------
// Without CUDA, or for a GPU that is not visible, each of these is an error.
struct ddp_cuda_memory_stats {
  uint64_t allocated_bytes;
  uint64_t peak_allocated_bytes;
  uint64_t reserved_bytes;
  uint64_t peak_reserved_bytes;
};
// A value, as c10's streams are: the pools of streams live as long as the process.
struct ddp_stream {
  int64_t id;
  int32_t device;
};
// What ddp_stream_exit puts back.
struct ddp_stream_scope {
  ddp_stream previous;
  int32_t device;
};
struct ddp_event;
int32_t ddp_cuda_synchronize(int32_t device, ddp_error* error) noexcept;
int32_t ddp_cuda_memory(int32_t device, ddp_cuda_memory_stats* out, ddp_error* error) noexcept;
int32_t ddp_cuda_reset_peak_memory(int32_t device, ddp_error* error) noexcept;
enum ddp_sync_debug_mode : int32_t { DDP_SYNC_DEBUG_OFF = 0, DDP_SYNC_DEBUG_WARN = 1, DDP_SYNC_DEBUG_ERROR = 2 };
// What an operation does that makes the CPU wait for the GPU.
int32_t ddp_cuda_set_sync_debug_mode(ddp_sync_debug_mode mode, ddp_error* error) noexcept;
int32_t ddp_cuda_empty_cache(ddp_error* error) noexcept;
int32_t ddp_stream_new(int32_t device, bool high_priority, ddp_stream* out, ddp_error* error) noexcept;
int32_t ddp_stream_current(int32_t device, ddp_stream* out, ddp_error* error) noexcept;
// Makes the stream the calling thread's current one; `out` is for ddp_stream_exit, in the same thread.
int32_t ddp_stream_enter(const ddp_stream* stream, ddp_stream_scope* out, ddp_error* error) noexcept;
int32_t ddp_stream_exit(const ddp_stream_scope* scope, ddp_error* error) noexcept;
int32_t ddp_stream_query(const ddp_stream* stream, bool* out, ddp_error* error) noexcept;
int32_t ddp_stream_synchronize(const ddp_stream* stream, ddp_error* error) noexcept;
// Keeps the tensor's memory from being used again before the stream is done with what it was given until then.
int32_t ddp_stream_record(const ddp_stream* stream, ddp_tensor* tensor, ddp_error* error) noexcept;
int32_t ddp_event_new(bool timing, ddp_event** out, ddp_error* error) noexcept;
void ddp_event_free(ddp_event* event) noexcept;
int32_t ddp_event_record(ddp_event* event, const ddp_stream* stream, ddp_error* error) noexcept;
// Makes the stream wait for the event.
int32_t ddp_event_block(const ddp_event* event, const ddp_stream* stream, ddp_error* error) noexcept;
int32_t ddp_event_query(const ddp_event* event, bool* out, ddp_error* error) noexcept;
int32_t ddp_event_synchronize(const ddp_event* event, ddp_error* error) noexcept;
int32_t ddp_event_elapsed_ms(const ddp_event* start, const ddp_event* end, double* out, ddp_error* error) noexcept;

// --- tensor.cpp ----------------------------------------------------------------------------------------------------
// torch.randperm(n) from a separate CPU generator with this seed, into `out` (n numbers).
int32_t ddp_randperm(int64_t n, uint64_t seed, int64_t* out, ddp_error* error) noexcept;
// The state of the default generator of a GPU, or of the CPU with -1: bytes, on the CPU.
int32_t ddp_rng_state(int32_t cuda_device, ddp_tensor** out, ddp_error* error) noexcept;
int32_t ddp_set_rng_state(int32_t cuda_device, const ddp_tensor* state, ddp_error* error) noexcept;
// Two handles of the same tensor have the same id.
size_t ddp_tensor_id(const ddp_tensor* tensor) noexcept;
enum ddp_form : int32_t {
  DDP_ORDINARY = 0, DDP_UNDEFINED = 1, DDP_SPARSE = 2, DDP_QUANTIZED = 3, DDP_META = 4, DDP_COMPUTED = 5
};
// What keeps a tensor from being an ordinary parameter or buffer; DDP_SPARSE is each layout but the strided one, and
// DDP_COMPUTED a result that a gradient is passed on through.
ddp_form ddp_tensor_form(const ddp_tensor* tensor) noexcept;
// The index of the first tensor whose requires_grad is `requires_grad`, or -1.
int64_t ddp_find_requires_grad(ddp_tensor* const* tensors, size_t n, bool requires_grad) noexcept;
// A copy in page-locked memory. (tch passes the argument `device`, which PyTorch deprecates with a warning each time.)
int32_t ddp_pin_memory(const ddp_tensor* tensor, ddp_tensor** out, ddp_error* error) noexcept;

// --- debug.cpp: for debuggers --------------------------------------------------------------------------------------
// Offsets in bytes, from the object that is named first.
struct ddp_debug_layout {
  char magic[8];  // "ddpdbg" and the version of this struct
  uint32_t size;  // of this struct
  uint32_t impl_refcount;
  uint32_t impl_storage;  // a pointer to the StorageImpl
  uint32_t impl_autograd;
  uint32_t impl_dim;
  uint32_t impl_sizes;  // then the strides; with more than `inline_dims` dimensions a pointer to both
  uint32_t inline_dims;
  uint32_t impl_storage_offset;
  uint32_t impl_numel;
  uint32_t impl_dtype;
  uint32_t impl_device_type;
  uint32_t impl_device_index;
  uint32_t impl_has_device;
  uint32_t impl_keys;
  uint32_t storage_data;
  uint32_t storage_bytes;
  uint32_t autograd_requires_grad;
  uint32_t autograd_grad_fn;
  uint32_t autograd_grad;
  uint64_t conjugate_key;
  uint64_t negative_key;
};
extern const ddp_debug_layout ddp_debug_tensor_layout;
}
