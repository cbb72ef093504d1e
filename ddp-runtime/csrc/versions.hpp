// The versions that this code is written for. libtorch's C++ classes have another layout in another version.
#pragma once
#include <torch/version.h>

static_assert(TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 13, "ddp-runtime needs libtorch 2.13");

#ifdef USE_C10D_NCCL
#include <nccl.h>

// ProcessGroupNCCL::Options contains an ncclConfig_t. The header must be of the version that libtorch was built with;
// build/nccl.rs has it, too.
static_assert(NCCL_MAJOR == 2 && NCCL_MINOR == 29, "libtorch 2.13 needs the nccl.h of NCCL 2.29");
#endif
