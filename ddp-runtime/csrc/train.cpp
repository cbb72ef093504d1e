// Optimizers, mixed precision, layers, CUDA and debugging, as one unit. See UNITS in build.rs.
#include "optim.cpp"
#include "clip.cpp"
#include "amp.cpp"
#include "batch_norm.cpp"
#include "cuda.cpp"
#include "side_stream.cpp"
#include "tensor.cpp"
#include "debug.cpp"
