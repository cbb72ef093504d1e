"""Training steps per second of three models: `steps_torch.py FOLDER` prints a line for each model and way to train;
`steps_torch.py --make FOLDER` writes first weights and each rank's batch. Its Rust twin is `steps.rs`."""
import sys, time

import torch, torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel as DDP

WIDTH, HEADS, LAYERS, VOCABULARY, LENGTH = 512, 8, 3, 1000, 32
WARM_UP_STEPS = 10  # whose losses are printed; the clock starts after them


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def attention(self, x):
        batch = x.shape[0]
        q, k, v = self.qkv(x).view(batch, LENGTH, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(batch, LENGTH, WIDTH))

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """An encoder: predicts a token for each token."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x):
        x = self.tokens(x) + self.positions(torch.arange(LENGTH))
        return self.head(self.norm(self.blocks(x)))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        for i in range(4):
            self.add_module(str(i), nn.Linear(1024, 1024))

    def forward(self, x):
        *hidden, last = self.children()
        for layer in hidden:
            x = layer(x).relu()
        return last(x)


def cross_entropy(logits, y):
    return F.cross_entropy(logits.view(-1, VOCABULARY), y.view(-1))


MODELS = {
    # name: (model, batch, loss, steps)
    "linear": (lambda: nn.Linear(20, 1), lambda: (torch.randn(32, 20), torch.randn(32, 1)), F.mse_loss, 1500),
    "mlp": (Mlp, lambda: (torch.randn(32, 1024), torch.randn(32, 1024)), F.mse_loss, 60),
    "transformer": (
        Transformer, lambda: (torch.randint(VOCABULARY, (4, LENGTH)), torch.randint(VOCABULARY, (4, LENGTH))), cross_entropy, 15
    ),
}


def make(folder, ranks=2):
    torch.manual_seed(0)
    for name, (model, batch, _, _) in MODELS.items():
        save_file(model().state_dict(), f"{folder}/{name}.safetensors")
        for rank in range(ranks):
            x, y = batch()
            save_file({"x": x, "y": y}, f"{folder}/{name}-batch-{rank}.safetensors")


def start(name, folder):
    model = MODELS[name][0]()
    model.load_state_dict(load_file(f"{folder}/{name}.safetensors"))
    if name == "transformer":
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03, fused=True)
    return model, optimizer


def steps_per_second(steps, takes_part, step):
    """All ranks start together, and the clock stops when the last one is done."""
    dist.barrier()
    begin = time.perf_counter()
    if takes_part:
        for _ in range(steps):
            step()
    dist.barrier()
    return steps / (time.perf_counter() - begin)


def measure(folder):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name, (_, _, loss_function, steps) in MODELS.items():
        batch = load_file(f"{folder}/{name}-batch-{rank}.safetensors")
        x, y = batch["x"], batch["y"]

        def stepper(model, optimizer):
            def step():
                optimizer.zero_grad()
                loss = loss_function(model(x), y)
                loss.backward()
                optimizer.step()
                return loss
            return step

        model, optimizer = start(name, folder)
        step = stepper(DDP(model, gradient_as_bucket_view=True), optimizer)
        losses = [step().item() for _ in range(WARM_UP_STEPS)]
        ddp = steps_per_second(steps, True, step)

        # The same steps without communication: on all ranks at once, and on rank 0 alone.
        model, optimizer = start(name, folder)
        step = stepper(model, optimizer)
        for _ in range(WARM_UP_STEPS):
            step().item()
        both = steps_per_second(steps, True, step)
        one = steps_per_second(steps, rank == 0, step)

        if rank == 0:
            parameters = sum(p.numel() for p in model.parameters())
            print(f"{name} parameters={parameters} losses={losses}")
            print(f"{name} ddp={ddp:.2f} both={both:.2f} one={one:.2f}", flush=True)
    dist.destroy_process_group()


make(sys.argv[2]) if sys.argv[1] == "--make" else measure(sys.argv[1])
