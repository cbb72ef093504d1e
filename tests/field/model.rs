//! Gradients that were not averaged, tied weights, and tensors that cannot be carried.
