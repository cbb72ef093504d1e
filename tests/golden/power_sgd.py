"""PowerSGD in Python: PyTorch's DDP with powerSGD_hook on Gloo, under torchrun.

    python -m torch.distributed.run --standalone --nproc_per_node=2 power_sgd.py CASES
        trains each case of CASES (power_sgd.json) and prints each step's loss as the bits of its float32, as
        workers/power_sgd.rs does
    python power_sgd.py --make DIR
        writes the losses of both ranks into DIR/power_sgd.json

Made with torch 2.13.0 and numpy as `cargo ddp setup --cuda` installs them.
"""
import json, os, struct, subprocess, sys

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as power
from torch.nn.parallel import DistributedDataParallel

STEPS, BATCH = 12, 8
NAMES = {"start_iter": "start_powerSGD_iter"}
CASES = {
    "rank 1": {"start_iter": 2},
    "rank 2, epsilon": {"start_iter": 3, "matrix_approximation_rank": 2, "orthogonalization_epsilon": 1e-8},
    "rank 4, rate 1.5, seed 7": {
        "start_iter": 4, "matrix_approximation_rank": 4, "min_compression_rate": 1.5, "random_seed": 7,
    },
    "cold": {"start_iter": 2, "warm_start": False},
    "no feedback": {"start_iter": 2, "use_error_feedback": False},
    "stateless": {"start_iter": 0, "use_error_feedback": False, "warm_start": False},
    "batched": {"start_iter": 2, "batch_tensors_with_same_shape": True, "matrix_approximation_rank": 2},
}


def wave(rows, columns, step):
    return (torch.arange(rows * columns, dtype=torch.float64) * step).sin().float().view(rows, columns)


def train(name, options):
    rank = dist.get_rank()
    sizes = [16, 32, 32, 32, 1]
    layers = []
    for i, (before, after) in enumerate(zip(sizes, sizes[1:])):
        linear = torch.nn.Linear(before, after)
        with torch.no_grad():
            linear.weight.copy_(wave(after, before, 0.7 + i) / before**0.5)
            linear.bias.zero_()
        layers += [linear, torch.nn.Tanh()]
    model = torch.nn.Sequential(*layers[:-1])
    # One bucket: with several, this hung on Gloo, whose threads run the hook's callbacks, which wait for more collectives.
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    options = {NAMES.get(key, key): value for key, value in options.items()}
    ddp.register_comm_hook(power.PowerSGDState(None, **options), power.powerSGD_hook)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)
    for step in range(STEPS):
        x = wave(BATCH, 16, 0.3 + 0.1 * rank + 0.01 * step)
        y = x.sum(1, keepdim=True).sin()
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(ddp(x), y)
        loss.backward()
        optimizer.step()
        # one write, so that the ranks' lines do not mix
        bits = struct.pack(">f", loss.item()).hex()
        os.write(1, f"{name}: {rank} {step} {bits}\n".encode())


def make(folder):
    path = os.path.join(folder, "power_sgd.json")
    golden = {"cases": CASES}
    with open(path, "w") as f:
        json.dump(golden, f)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__, path]
    golden["losses"] = {name: [[None] * STEPS, [None] * STEPS] for name in CASES}
    for line in subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
        name, rest = line.split(": ")
        rank, step, bits = rest.split()
        golden["losses"][name][int(rank)][int(step)] = bits
    with open(path, "w") as f:
        json.dump(golden, f, indent=1)


if sys.argv[1] == "--make":
    make(sys.argv[2])
else:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    with open(sys.argv[1]) as f:
        golden = json.load(f)
    for name, options in golden["cases"].items():
        train(name, options)
    dist.barrier()
    os._exit(0)  # at exit, torch sometimes aborts ("terminate called without an active exception")
