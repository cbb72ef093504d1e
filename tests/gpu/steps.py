"""Training steps per second on a GPU: `steps.py [MODEL[:VARIANT]...]` prints a line of JSON for each model. Its Rust twin is
`steps.rs`, with the same weights and batches; `ratios.py` compares the two.

PyTorch's BatchNorm counts its batches in a buffer, which tch's does not have: one more kernel for each layer, and one more
broadcast by DDP. The variant `uncounted`, measured on request, is without."""
import argparse, contextlib, gc, json, math, os, statistics, time

import torch, torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel as DDP

WARM_UP_STEPS, PRINTED_LOSSES, ROUNDS, HOST_TRIES = 10, 5, 5, 9


class Mlp(nn.Sequential):
    def __init__(self, width):
        super().__init__(*(nn.Linear(width, width) for _ in range(4)))

    def forward(self, x):
        *hidden, last = self
        for layer in hidden:
            x = layer(x).relu()
        return last(x)


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample.extend([nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)])

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (self.downsample(x) + y).relu()


class ResNet50(nn.Module):
    """torchvision's, v1.5: the 3x3 convolution of a block has its stride."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for i, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
            layer = nn.Sequential()
            for block in range(blocks):
                layer.append(Bottleneck(inputs, width, 2 if i > 0 and block == 0 else 1))
                inputs = 4 * width
            self.add_module(f"layer{i + 1}", layer)
        self.fc = nn.Linear(inputs, 1000)

    def forward(self, x):
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Block(nn.Module):
    def __init__(self, heads, width):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attention(self, x):
        batch, length, width = x.shape
        by_head = lambda x: x.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
        q, k, v = map(by_head, self.qkv(x).split(width, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    """GPT-2 without dropout; the head has the weights of the embedding."""

    def __init__(self, layers, heads, width, vocabulary, length):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(heads, width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        x = self.tokens(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight).flatten(0, 1)


def noise(shape, seed, device):
    """Numbers from -1/2 to 1/2 that look random, in double; values.rs has the same."""
    x = (torch.arange(math.prod(shape), dtype=torch.double, device=device) * 12.9898 + seed).sin() * 43758.5453
    return (x - x.floor() - 0.5).view(shape)


def floats(shape, seed, device):
    return (noise(shape, seed, device) * math.sqrt(12)).float()


def integers(shape, below, seed, device):
    return ((noise(shape, seed, device) + 0.5) * below).floor().long()


@torch.no_grad()
def fill(model):
    for seed, (name, parameter) in enumerate(sorted(model.named_parameters())):
        if parameter.dim() > 1:
            fan_in = math.prod(parameter.shape[1:])
            parameter.copy_((noise(parameter.shape, seed, parameter.device) * (2 / math.sqrt(fan_in))).float())
        else:
            parameter.fill_(0 if name.endswith("bias") else 1)


def start(name, small, rank, device):
    """The model called `name`, filled, with its optimizer, the loss function and this rank's batch."""
    torch.set_float32_matmul_precision("high" if name.endswith("_tf32") else "highest")
    torch.backends.cudnn.allow_tf32 = name.endswith("_tf32")
    torch.backends.cudnn.benchmark = True
    seed = 1000 + 10 * rank
    with device:
        if name == "linear":
            model, loss_function = nn.Linear(20, 1), F.mse_loss
            x, y = floats((32, 20), seed, device), floats((32, 1), seed + 1, device)
        elif name == "mlp":
            width = 64 if small else 1024
            model, loss_function = Mlp(width), F.mse_loss
            x, y = floats((32, width), seed, device), floats((32, width), seed + 1, device)
        elif name.startswith("resnet50"):
            batch, side = (4, 64) if small else (128 if name.endswith("_bf16") else 64, 224)
            model, loss_function = ResNet50(), F.cross_entropy
            x, y = floats((batch, 3, side, side), seed, device), integers((batch,), 1000, seed + 1, device)
            if name.endswith("_bf16"):
                model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        else:
            layers, heads, width, vocabulary, length, batch = (2, 4, 64, 128, 32, 2) if small else (12, 12, 768, 50304, 1024, 8)
            model, loss_function = Gpt(layers, heads, width, vocabulary, length), F.cross_entropy
            x, y = (integers((batch, length), vocabulary, seed + i, device) for i in range(2))
            y = y.view(-1)
    fill(model)
    if name.startswith("gpt"):
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    else:
        lr, momentum = (0.001, 0.9) if name.startswith("resnet50") else (0.03, 0)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, fused=True)
    return model, optimizer, loss_function, x, y


def measure(name, variant, args, device):
    rank, is_cuda = dist.get_rank(), device.type == "cuda"
    model, optimizer, loss_function, x, y = start(name, args.small, rank, device)
    if variant == "uncounted":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.num_batches_tracked = None
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()  # memory that was allocated to fill the model does not count
    # Without device_ids, DDP does not move its inputs, which are on the device already.
    ddp = DDP(model, gradient_as_bucket_view=True)
    autocast = contextlib.nullcontext()
    if name.endswith("_bf16"):
        autocast = torch.autocast(device.type, torch.bfloat16)

    def step():
        optimizer.zero_grad()
        with autocast:
            loss = loss_function(ddp(x), y)
        loss.backward()
        optimizer.step()
        return loss

    def seconds(steps, complete):
        """The time that the steps take: on the device, or (not `complete`) until the host has started their last kernel."""
        synchronize = torch.cuda.synchronize if is_cuda else lambda: None
        synchronize()
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        if complete:
            synchronize()
        return time.perf_counter() - begin

    losses = [step().detach() for _ in range(WARM_UP_STEPS)][:PRINTED_LOSSES]
    # Few enough that all their kernels fit in the GPU's queue.
    host_steps = 8 if name in ("linear", "mlp") else 1
    host_ms = statistics.median(seconds(host_steps, False) * 1e3 / host_steps for _ in range(HOST_TRIES))

    probe = seconds(host_steps, True) / host_steps
    round_seconds = 0.05 if args.small else args.seconds if variant == "none" else args.seconds / 2
    steps = torch.tensor(math.ceil(round_seconds / probe), device=device)
    dist.broadcast(steps, 0)
    steps = steps.item()
    rates = [steps / seconds(steps, True) for _ in range(ROUNDS)]
    if rank == 0:
        line = {
            "model": name, "variant": variant, "ranks": dist.get_world_size(), "device": device.type,
            "steps_per_s": rates, "host_ms": host_ms,
            "peak_bytes": torch.cuda.max_memory_allocated() if is_cuda else 0,
            "losses": [loss.item() for loss in losses], "parameters": sum(p.numel() for p in model.parameters()),
        }
        print(json.dumps(line), flush=True)


def main():
    all_models = ["linear", "mlp", "resnet50_tf32", "resnet50_bf16", "gpt_bf16"]
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="tiny models and rounds, to try the program on a CPU")
    parser.add_argument("--seconds", type=float, default=0.7, help="length of a round; half of it for `uncounted`")
    parser.add_argument("models", nargs="*", metavar="MODEL[:VARIANT]")
    args = parser.parse_args()
    models = [(name, variant or "none") for name, _, variant in (wanted.partition(":") for wanted in args.models or all_models)]
    for name, variant in models:
        if name not in all_models:
            parser.error(f"unknown model `{name}`, expected one of {', '.join(all_models)}")
        if variant not in ("none", "uncounted"):
            parser.error(f"unknown variant `{variant}`, expected none or uncounted")

    device = torch.device("cpu")
    if torch.cuda.is_available():
        # Ranks share a GPU if there are more ranks than GPUs.
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        store = dist.TCPStore("127.0.0.1", 0, world_size=1, is_master=True)
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    for name, variant in models:
        measure(name, variant, args, device)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
