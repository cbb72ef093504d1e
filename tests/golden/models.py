"""Small models trained by PyTorch's DDP on 2 ranks (Gloo), many settings in one job: workers/models.rs does the same.

    python -m torch.distributed.run --standalone --nproc_per_node=2 models.py DIR
        prints, for each case, rank and step, the bits of the loss and of the gradients' norm, and at the end what
        all parameters and buffers add up to
    python models.py --make DIR
        makes DIR/models.safetensors (data and first weights) and DIR/models.json (the cases, and some of what is printed)

Made with torch 2.13.0, numpy and safetensors as `cargo ddp setup --cuda` installs them.
"""
import contextlib, json, os, struct, subprocess, sys

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler
from torch.utils.data.distributed import DistributedSampler

STEPS, BATCH = 100, 8
KEPT = 10  # one step out of this many is in the golden file


class Branch(nn.Module):
    """A layer that a rank uses in some steps only."""

    def __init__(self):
        super().__init__()
        self.common, self.rare, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x, use_rare):
        x = torch.tanh(self.common(x))
        return self.head(torch.tanh(self.rare(x)) if use_rare else x)


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)),
    "conv": lambda: nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2),
                                  nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)),
    "branch": Branch,
}
OPTIMIZERS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
LAMBDAS = {"inverse": lambda step: 1.0 / (1.0 + step)}


def cases():
    momentum = ("SGD", dict(lr=0.05, momentum=0.9))
    adam, adamw = ("Adam", dict(lr=0.01, weight_decay=0.01)), ("AdamW", dict(lr=0.01))
    out = {}

    def add(name, model="mlp", optimizer=adamw, **settings):
        out[name] = dict(model=model, optimizer=optimizer[0], options=optimizer[1], **settings)

    for model in ["mlp", "conv"]:
        for name, optimizer in [("momentum", momentum), ("adam", adam), ("adamw", adamw)]:
            add(f"{model} {name}", model, optimizer)
    add("mlp nesterov", optimizer=("SGD", dict(lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.001)))
    add("mlp dampening", optimizer=("SGD", dict(lr=0.05, momentum=0.9, dampening=0.3)))
    add("mlp maximize", optimizer=("SGD", dict(lr=1e-4, maximize=True)))
    add("mlp amsgrad", optimizer=("Adam", dict(lr=0.01, amsgrad=True)))
    add("mlp groups", optimizer=("AdamW", dict(lr=0.01, weight_decay=0.1)), groups=dict(lr=0.002, weight_decay=0.0))
    add("mlp accumulation", accumulate=4)
    add("conv accumulation", "conv", momentum, accumulate=3)
    add("mlp clip norm", clip_norm=0.5, norm_type="2")
    add("conv clip norm", "conv", momentum, clip_norm=0.3, norm_type="2")
    add("mlp clip largest", optimizer=momentum, clip_norm=0.1, norm_type="inf")
    add("mlp clip value", optimizer=momentum, clip_value=0.02)
    add("mlp bfloat16", autocast="bfloat16")
    add("conv bfloat16", "conv", momentum, autocast="bfloat16")
    add("mlp scaler", optimizer=momentum, scaler=dict(init_scale=1024.0, growth_interval=9), overflow_at=[20, 21, 60])
    # Scales that are no powers of two: gradients show how they were divided.
    odd = dict(init_scale=1000.0, growth_factor=1.7, backoff_factor=0.6, growth_interval=9)
    add("mlp scaler adamw", scaler=odd, overflow_at=[0, 1, 20])
    add("mlp scaler clip norm", optimizer=momentum, scaler=odd, overflow_at=[20, 21], clip_norm=0.5, norm_type="2")
    add("mlp unused", "branch", find_unused_parameters=True)
    add("mlp static", static_graph=True)
    add("mlp fp16 compression", optimizer=momentum, hook="fp16")
    add("conv bf16 compression", "conv", hook="bf16")
    add("mlp small buckets", bucket_cap_mb=0.004)
    add("mlp drop_last", drop_last=True)
    for kind, args in dict(
        StepLR=dict(step_size=7, gamma=0.7), MultiStepLR=dict(milestones=[10, 40, 41], gamma=0.3), ExponentialLR=dict(gamma=0.97),
        LinearLR=dict(start_factor=0.1, end_factor=1.0, total_iters=30), CosineAnnealingLR=dict(T_max=60, eta_min=1e-4),
        CosineAnnealingWarmRestarts=dict(T_0=8, T_mult=2), OneCycleLR=dict(max_lr=0.05, total_steps=100), LambdaLR={"lambda": "inverse"},
        SequentialLR=dict(warm_up=10, T_max=90), ReduceLROnPlateau=dict(factor=0.5, patience=2),
    ).items():
        add(f"mlp {kind}", optimizer=momentum, scheduler=kind, args=args)
    return out


def make_scheduler(optimizer, kind, args):
    if kind == "LambdaLR":
        return lr_scheduler.LambdaLR(optimizer, LAMBDAS[args["lambda"]])
    if kind == "SequentialLR":
        parts = [lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=args["warm_up"]),
                 lr_scheduler.CosineAnnealingLR(optimizer, T_max=args["T_max"])]
        return lr_scheduler.SequentialLR(optimizer, parts, [args["warm_up"]])
    return getattr(lr_scheduler, kind)(optimizer, **args)


def bits(number):
    return struct.pack(">f", number).hex()


def train(name, case, data):
    rank = dist.get_rank()
    torch.manual_seed(rank)  # all ranks get rank 0's parameters, which are those of the file
    model = MODELS[case["model"]]()
    if rank == 0:
        own = {key: data[f"{case['model']}.{key}"] for key in model.state_dict() if "num_batches" not in key}
        model.load_state_dict(own, strict=False)
    ddp = DistributedDataParallel(
        model, gradient_as_bucket_view=True, find_unused_parameters=case.get("find_unused_parameters", False),
        static_graph=case.get("static_graph", False), bucket_cap_mb=case.get("bucket_cap_mb", 25))
    if hook := case.get("hook"):
        ddp.register_comm_hook(None, getattr(default_hooks, f"{hook}_compress_hook"))
    params, options = list(model.parameters()), dict(case["options"], fused=True)
    if groups := case.get("groups"):
        params = [dict(params=[p for p in params if p.dim() > 1]), dict(params=[p for p in params if p.dim() == 1], **groups)]
    optimizer = OPTIMIZERS[case["optimizer"]](params, **options)
    scheduler = make_scheduler(optimizer, case["scheduler"], case["args"]) if "scheduler" in case else None
    scaler = torch.amp.GradScaler("cpu", **case["scaler"]) if "scaler" in case else None
    conv = case["model"] == "conv"
    x, y = (data["images"], data["labels"]) if conv else (data["x"], data["y"])
    if case.get("drop_last"):
        x, y = x[:251], y[:251]
    sampler = DistributedSampler(range(len(x)), drop_last=case.get("drop_last", False))
    autocast = (lambda: torch.autocast("cpu", dtype=torch.bfloat16)) if "autocast" in case else contextlib.nullcontext
    accumulate = case.get("accumulate", 1)

    def batches():
        epoch = 0
        while True:
            sampler.set_epoch(epoch)
            indices = list(sampler)
            yield from (torch.tensor(indices[i:i + BATCH]) for i in range(0, len(indices), BATCH))
            epoch += 1

    source = batches()
    for step in range(STEPS):
        optimizer.zero_grad()
        for part in range(accumulate):
            index = next(source)
            with contextlib.nullcontext() if part + 1 == accumulate else ddp.no_sync():
                with autocast():
                    args = (x[index], (step + rank) % 3 == 0) if case["model"] == "branch" else (x[index],)
                    loss = (cross_entropy if conv else mse_loss)(ddp(*args), y[index])
                loss = loss / accumulate
                if step in case.get("overflow_at", []) and rank == 1:
                    loss = loss * float("inf")
                (scaler.scale(loss) if scaler else loss).backward()
        norm = torch.zeros(())
        if scaler and "clip_norm" in case:
            scaler.unscale_(optimizer)
        if "clip_norm" in case:
            norm = nn.utils.clip_grad_norm_(model.parameters(), case["clip_norm"], float(case["norm_type"]))
        if "clip_value" in case:
            nn.utils.clip_grad_value_(model.parameters(), case["clip_value"])
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        if scheduler is not None:
            scheduler.step(*([0.5 + 0.1 * (step % 4)] if case["scheduler"] == "ReduceLROnPlateau" else []))
        # one write, so that the ranks' lines do not mix
        os.write(1, f"{name}: {rank} {step} {bits(loss.item())} {bits(norm.item())}\n".encode())
    total = 0
    for key, tensor in sorted(model.state_dict().items()):
        if tensor.is_floating_point():
            words = tensor.flatten().view(torch.int32).to(torch.int64)
            total += (words * torch.arange(1, len(words) + 1)).sum().item()
    os.write(1, f"{name}: {rank} end {total % 2**64:016x} {scaler.get_scale() if scaler else 1.0}\n".encode())


def run(folder):
    dist.init_process_group("gloo")
    data = load_file(os.path.join(folder, "models.safetensors"))
    for name, case in cases().items():
        train(name, case, data)
    dist.barrier()
    os._exit(0)  # at exit, torch sometimes aborts ("terminate called without an active exception")


def make(folder):
    torch.manual_seed(7)
    x, images = torch.randn(256, 16), torch.randn(256, 2, 6, 6).mul(8).round().div(8)
    data = {"x": x, "y": torch.sin(x[:, :3].sum(1, keepdim=True)) + 0.1 * torch.randn(256, 1), "images": images,
            "labels": (images.sum((1, 2, 3)).abs() / 2).long().clamp(max=4)}
    for name, model in MODELS.items():
        data |= {f"{name}.{key}": value for key, value in model().state_dict().items() if "num_batches" not in key}
    save_file(data, os.path.join(folder, "models.safetensors"))
    job = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__, folder]
    printed = subprocess.run(job, check=True, capture_output=True, text=True).stdout
    losses = {name: [[], []] for name in cases()}
    for line in printed.splitlines():
        name, _, rest = line.partition(": ")
        rank, step, loss, _ = rest.split()
        if name in losses and step != "end" and int(step) % KEPT == 0:
            losses[name][int(rank)].append(loss)
    with open(os.path.join(folder, "models.json"), "w") as file:
        json.dump({"torch": torch.__version__, "steps": STEPS, "batch": BATCH, "kept": KEPT, "cases": cases(), "losses": losses}, file, indent=0)
        file.write("\n")


if sys.argv[1] == "--make":
    make(sys.argv[2])
else:
    run(sys.argv[1])
