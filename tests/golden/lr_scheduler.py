"""Learning rates of torch.optim.lr_scheduler and gradients of torch.nn.utils.clip_grad_*: `python lr_scheduler.py
--make FILE` writes them for many settings (torch 2.13.0); `python lr_scheduler.py` prints them.

Floats are Python's repr, which brings the same bits back; gradients are the hexadecimal bits of f32. Half-way through
each schedule the state is saved and loaded into a scheduler and an optimizer made anew, with other settings where the
case has them: PyTorch's states hold the settings too."""
import json, math, pickle, struct, sys

import torch
from torch.optim import lr_scheduler as lrs
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

STEPS = 60
LAMBDAS = {
    "inverse": lambda epoch: 1.0 / (1.0 + epoch),
    "power": lambda epoch: 0.95**epoch,
    "thirds": lambda epoch: float(epoch // 3),
}


def make(kind, args, optimizer):
    args = dict(args)
    if kind == "SequentialLR":
        parts = [make(part["kind"], part["args"], optimizer) for part in args["schedulers"]]
        return lrs.SequentialLR(optimizer, parts, args["milestones"])
    if kind == "LambdaLR":
        return lrs.LambdaLR(optimizer, LAMBDAS[args["lambda"]])
    if kind == "OneCycleLR":
        args.setdefault("cycle_momentum", False)
    return getattr(lrs, kind)(optimizer, **args)


def start(kind, lr, args):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr, momentum=0.9)
    return optimizer, make(kind, args, optimizer)


def rates(case):
    optimizer, scheduler = start(case["kind"], case["lr"], case["args"])
    optimizer._opt_called = True  # no warning about the order of steps
    values = lambda: (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"])
    out = [values()]
    for step in range(1, case["steps"] + 1):
        if step == case["set_lr"][0]:
            optimizer.param_groups[0]["lr"] = case["set_lr"][1]
        if case["kind"] == "ReduceLROnPlateau":
            scheduler.step(case["metrics"][step - 1])
        else:
            scheduler.step()
        assert scheduler.get_last_lr()[0] == optimizer.param_groups[0]["lr"]
        out.append(values())
        if step == case["save_at"]:
            state = pickle.dumps((optimizer.state_dict(), scheduler.state_dict()))
            optimizer, scheduler = start(case["kind"], case["lr"], case["other"])
            optimizer._opt_called = True
            for into, loaded in zip((optimizer, scheduler), pickle.loads(state)):
                into.load_state_dict(loaded)
    return out


def cases():
    out = []

    def add(kind, lr=0.1, steps=STEPS, save_at=None, other=None, set_lr=None, metrics=None, **args):
        case = dict(kind=kind, lr=lr, args=args, other=other or args, steps=steps, save_at=save_at or 7 + 11 * len(out) % (steps - 8),
                    set_lr=set_lr or [0, 0.0])
        if metrics:
            case["metrics"] = metrics
        out.append(case)

    def part(kind, **args):
        return dict(kind=kind, args=args)

    for step_size, gamma in [(1, 0.1), (7, 0.1), (30, 0.1), (3, 0.97), (10, 1.5), (100, 0.5)]:
        add("StepLR", step_size=step_size, gamma=gamma)
    add("StepLR", lr=3e-4, step_size=4, gamma=0.3, other=dict(step_size=9, gamma=0.9))
    add("StepLR", step_size=5, gamma=0.7, set_lr=[23, 0.033])
    for milestones, gamma in [([30, 50], 0.1), ([5, 5, 9, 40, 40, 40], 0.3), ([0, 0, 3], 0.7), ([50, 10, 30], 0.9), ([], 0.1)]:
        add("MultiStepLR", lr=0.2, milestones=milestones, gamma=gamma)
    add("MultiStepLR", milestones=[10, 45], gamma=0.2, other=dict(milestones=[3], gamma=0.5), save_at=20)
    for gamma in [0.9, 0.99, 0.123456789, 1.01, 1.0]:
        add("ExponentialLR", lr=0.3, gamma=gamma)
    add("ExponentialLR", gamma=0.95, set_lr=[30, 0.5], other=dict(gamma=0.5))
    for start_factor, end_factor, total in [(1 / 3, 1.0, 5), (0.1, 1.0, 40), (1e-3, 1.0, 50), (1.0, 0.0, 30), (0.7, 0.3, 20), (0.5, 1.0, 0), (0.25, 0.9, 1), (1.0, 1.0, 10)]:
        add("LinearLR", lr=0.05, start_factor=start_factor, end_factor=end_factor, total_iters=total)
    add("LinearLR", start_factor=0.01, end_factor=1.0, total_iters=45, save_at=20, other=dict(start_factor=0.5, end_factor=0.6, total_iters=3))
    for t_max, eta_min in [(50, 0.0), (10, 0.0), (7, 1e-3), (1, 0.01), (2, 0.0), (13, 0.2), (1000, 1e-6)]:
        add("CosineAnnealingLR", T_max=t_max, eta_min=eta_min)
    add("CosineAnnealingLR", lr=3e-4, T_max=25, eta_min=1e-5, set_lr=[40, 1e-4], other=dict(T_max=3, eta_min=0.0))
    for t_0, t_mult, eta_min in [(10, 1, 0.0), (5, 2, 1e-4), (1, 2, 0.0), (7, 3, 0.013), (1, 1, 0.01), (100, 1, 0.0)]:
        add("CosineAnnealingWarmRestarts", T_0=t_0, T_mult=t_mult, eta_min=eta_min)
    add("CosineAnnealingWarmRestarts", lr=0.7, T_0=4, T_mult=2, eta_min=0.003, save_at=17, other=dict(T_0=5, T_mult=1, eta_min=0.0))
    for strategy in ["cos", "linear"]:
        for pct_start, three_phase in [(0.3, False), (0.3, True), (0.0, False), (0.45, True), (0.9, False)]:
            add("OneCycleLR", max_lr=0.1, total_steps=60, pct_start=pct_start, anneal_strategy=strategy, div_factor=25.0,
                final_div_factor=1e4, three_phase=three_phase)
    add("OneCycleLR", max_lr=0.37, total_steps=71, pct_start=0.21, anneal_strategy="cos", div_factor=7.0, final_div_factor=300.0,
        three_phase=False, other=dict(max_lr=1.0, total_steps=10))
    add("OneCycleLR", steps=1, save_at=1, max_lr=0.1, total_steps=1, pct_start=0.3, anneal_strategy="cos", div_factor=25.0,
        final_div_factor=1e4, three_phase=False)
    cycle = dict(max_lr=0.1, total_steps=60, pct_start=0.3, anneal_strategy="cos", div_factor=25.0, final_div_factor=1e4, cycle_momentum=True)
    add("OneCycleLR", three_phase=False, **cycle)
    add("OneCycleLR", three_phase=True, base_momentum=0.7, max_momentum=0.99, **cycle)
    add("OneCycleLR", three_phase=False, **dict(cycle, anneal_strategy="linear"))
    add("SequentialLR", schedulers=[part("LinearLR", start_factor=0.2, total_iters=5), part("OneCycleLR", max_lr=0.9, total_steps=60, cycle_momentum=True),
        part("ExponentialLR", gamma=0.8)], milestones=[5, 40])
    for name in LAMBDAS:
        add("LambdaLR", lr=0.123, **{"lambda": name})
    add("SequentialLR", lr=0.4, schedulers=[part("LinearLR", start_factor=0.25, total_iters=5), part("CosineAnnealingLR", T_max=55)], milestones=[5])
    add("SequentialLR", schedulers=[part("LinearLR", start_factor=0.01, total_iters=10), part("CosineAnnealingLR", T_max=50, eta_min=1e-3)],
        milestones=[12], save_at=6)
    add("SequentialLR", schedulers=[part("LinearLR", start_factor=0.1, total_iters=8), part("StepLR", step_size=6, gamma=0.5),
        part("ExponentialLR", gamma=0.9)], milestones=[8, 30], save_at=33)
    add("SequentialLR", schedulers=[part("ExponentialLR", gamma=0.9), part("LinearLR", start_factor=0.3, total_iters=9),
        part("MultiStepLR", milestones=[0, 2, 2, 9], gamma=0.6)], milestones=[10, 31])
    add("SequentialLR", schedulers=[part("LambdaLR", **{"lambda": "inverse"}), part("CosineAnnealingWarmRestarts", T_0=4, T_mult=2, eta_min=0.007),
        part("LambdaLR", **{"lambda": "power"})], milestones=[9, 41], save_at=20)
    add("SequentialLR", schedulers=[part("CosineAnnealingWarmRestarts", T_0=4, T_mult=2, eta_min=0.007), part("MultiStepLR", milestones=[3], gamma=0.1)],
        milestones=[20])
    add("SequentialLR", schedulers=[part("LinearLR", start_factor=0.2, total_iters=5), part("OneCycleLR", max_lr=0.9, total_steps=60),
        part("ExponentialLR", gamma=0.8)], milestones=[5, 40])
    add("SequentialLR", schedulers=[part("CosineAnnealingLR", T_max=9, eta_min=0.01), part("OneCycleLR", max_lr=0.9, total_steps=60),
        part("CosineAnnealingLR", T_max=7, eta_min=0.02)], milestones=[14, 40])
    add("SequentialLR", schedulers=[part("ExponentialLR", gamma=0.8), part("LinearLR", start_factor=0.2, total_iters=5), part("StepLR", step_size=3, gamma=0.5)],
        milestones=[0, 10])
    add("SequentialLR", schedulers=[part("ExponentialLR", gamma=0.8), part("LinearLR", start_factor=0.2, total_iters=5), part("StepLR", step_size=3, gamma=0.5)],
        milestones=[10, 10])
    add("SequentialLR", schedulers=[part("StepLR", step_size=3, gamma=0.5)], milestones=[])
    add("SequentialLR", schedulers=[part("LinearLR", start_factor=0.25, total_iters=5), part("CosineAnnealingLR", T_max=55)], milestones=[5], save_at=3,
        set_lr=[2, 0.9], other=dict(schedulers=[part("LinearLR", start_factor=0.5, total_iters=9), part("CosineAnnealingLR", T_max=5)], milestones=[1]))

    falls = [2.0 / (1 + i) for i in range(STEPS)]
    stalls = [max(2.0 / (1 + i), 0.3) for i in range(STEPS)]
    waves = [1.0 + math.sin(i) / (1 + 0.1 * i) for i in range(STEPS)]
    crawl = [1.0 - 5e-5 * i for i in range(STEPS)]
    nans = [1.0, 0.5] + [math.nan] * 10 + [0.4] * (STEPS - 12)
    for metrics in [falls, stalls, waves, crawl, nans]:
        for mode in ["min", "max"]:
            add("ReduceLROnPlateau", metrics=metrics, mode=mode, factor=0.5, patience=3, threshold=1e-4, threshold_mode="rel", cooldown=2, min_lr=1e-3, eps=1e-8)
    add("ReduceLROnPlateau", metrics=crawl, mode="min", factor=0.1, patience=10, threshold=1e-4, threshold_mode="abs", cooldown=0, min_lr=0.0, eps=1e-8)
    add("ReduceLROnPlateau", metrics=waves, mode="max", factor=0.7, patience=1, threshold=0.1, threshold_mode="abs", cooldown=1, min_lr=0.0, eps=1e-3, save_at=9,
        other=dict(mode="min", factor=0.2, patience=4))
    add("ReduceLROnPlateau", metrics=[1.0] * STEPS, mode="min", factor=0.3, patience=0, threshold=0.0, threshold_mode="rel", cooldown=0, min_lr=1e-4, eps=1e-8,
        save_at=2)
    return out


def with_repr(value):
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return {key: with_repr(v) for key, v in value.items()}
    return [with_repr(v) for v in value] if isinstance(value, list) else value


def gradients(case):
    """Whole eighths: every sum of them is exact, in whatever order. With `rough`, they are not; then only the same
    processor gives the same bits."""
    out = []
    for i, size in enumerate(case["sizes"]):
        g = (torch.arange(size, dtype=torch.int64) * (7919 + i) + 31 * i) % 127 - 63
        g = g.to(torch.float32) / 8
        out.append(g * 0.37 if case["rough"] else g)
    return out


def bits(tensor):
    return "".join(struct.pack(">f", x).hex() for x in tensor.tolist())


def clipped(case):
    parameters = []
    for g in gradients(case):
        parameters += [torch.zeros_like(g, requires_grad=True), torch.zeros(2, requires_grad=True)]  # one without
        parameters[-2].grad = g
    total = ""
    if "max_norm" in case:
        total = bits(clip_grad_norm_(parameters, case["max_norm"], case["norm_type"]).reshape(1))
    elif parameters:  # PyTorch refuses an empty list
        clip_grad_value_(parameters, case["clip_value"])
    return dict(total=total, gradients=[bits(p.grad) for p in parameters if p.grad is not None])


def clip_cases():
    out = []
    for rough in [False, True]:
        for sizes in [[5], [3, 17, 40], [1, 300], []]:
            for max_norm in [0.1, 1.0, 7.7, 1e9]:
                for norm_type in [2.0, 1.0, math.inf] + ([3.0, 0.5] if rough else []):
                    out.append(dict(rough=rough, sizes=sizes, max_norm=max_norm, norm_type=norm_type))
            for clip_value in [0.5, 3.3, 100.0]:
                out.append(dict(rough=rough, sizes=sizes, clip_value=clip_value))
    return out


def everything(rough):
    schedules = []
    for case in cases():
        lrs, momenta = map(list, zip(*rates(case)))
        schedules.append(dict(case, lrs=lrs, **(dict(momenta=momenta) if "cycle_momentum" in json.dumps(case["args"]) else {})))
    clips = [dict(case, **clipped(case)) for case in clip_cases() if rough or not case["rough"]]
    return with_repr(dict(schedules=schedules, clips=clips))


def lines(golden):
    groups = (f'"{name}": [\n' + ",\n".join(json.dumps(case) for case in group) + "\n]" for name, group in golden.items())
    return "{\n" + ",\n".join(groups) + "\n}\n"


if len(sys.argv) > 1:
    with open(sys.argv[2], "w") as file:
        file.write(lines(everything(rough=False)))
else:
    sys.stdout.write(lines(everything(rough=True)))
