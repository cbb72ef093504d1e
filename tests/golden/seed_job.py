"""The seed job in Python: PyTorch's DDP with fused optimizers on Gloo, under torchrun.

    python -m torch.distributed.run --standalone --nproc_per_node=2 seed_job.py INPUT OPTIMIZER
        trains on INPUT and prints each step's loss as the bits of its float32, as workers/parity.rs does
    python seed_job.py --make DIR
        makes DIR/seed_job.safetensors (data and first weights) and DIR/seed_job.json (the losses of both ranks)

Made with torch 2.13.0, numpy and safetensors as `cargo ddp setup --cuda` installs them.
"""
import json, os, struct, subprocess, sys

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

STEPS, BATCH = 100, 32
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.03, fused=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-3, nesterov=True, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.03, fused=True),
}


def train(path, optimizer):
    dist.init_process_group("gloo")
    data = load_file(path)
    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(data["weight"])
        model.bias.copy_(data["bias"])
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    dataset = TensorDataset(data["x"], data["y"])
    sampler = DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size=BATCH, sampler=sampler)
    done, epoch = 0, 0
    while done < STEPS:
        sampler.set_epoch(epoch)
        for x, y in loader:
            if done == STEPS:
                break
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(ddp(x), y)
            loss.backward()
            optimizer.step()
            # one write, so that the ranks' lines do not mix
            os.write(1, b"loss %d %s\n" % (dist.get_rank(), struct.pack(">f", loss.item()).hex().encode()))
            done += 1
        epoch += 1
    dist.barrier()
    os._exit(0)  # at exit, torch sometimes aborts ("terminate called without an active exception")


def make(folder):
    torch.manual_seed(42)
    x = torch.randn(2048, 2)
    y = x @ torch.tensor([[-2.0], [3.4]]) + 4.2 + 0.01 * torch.randn(2048, 1)
    model = torch.nn.Linear(2, 1)
    path = os.path.join(folder, "seed_job.safetensors")
    save_file({"x": x, "y": y, "weight": model.weight.detach(), "bias": model.bias.detach()}, path)
    losses = {}
    for name in OPTIMIZERS:
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__, path, name]
        out = subprocess.run(run, check=True, capture_output=True, text=True).stdout
        lines = [line.split() for line in out.splitlines() if line.startswith("loss ")]
        losses[name] = [[bits for _, rank, bits in lines if int(rank) == r] for r in range(2)]
    with open(os.path.join(folder, "seed_job.json"), "w") as file:
        json.dump({"torch": torch.__version__, "losses": losses}, file, indent=0)
        file.write("\n")


if sys.argv[1] == "--make":
    make(sys.argv[2])
else:
    train(sys.argv[1], sys.argv[2])
