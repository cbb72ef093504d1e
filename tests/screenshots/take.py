#!/usr/bin/env python3
"""Takes the pictures and the recording of docs/debugging.md and README.md in a real VS Code workbench; see README.md.

    take.py PROJECT OUT [NAME…]      PROJECT: a built project of the template `linear`, with lldb-dap's configurations
"""
import argparse, asyncio, contextlib, pathlib, re, shutil
from playwright.async_api import async_playwright
from recording import Recording
from workbench import Workbench

BREAK_AT, NEXT, AFTER_NEXT = "ddp.backward(&loss)?", "run.optimizer.step()?", "losses.add(&loss)?"
RANK_1 = "context.world.rank == 1"
# A bug on the last rank only.
BUG = "            let _weight = [1.0][context.rank() as usize];\n"


async def configurations(bench, out):
    await bench.page.keyboard.press("Control+Shift+d")
    await bench.sidebar(460)
    await bench.line(BREAK_AT)
    await bench.panes("Variables", "Call Stack")
    await bench.page.locator(".monaco-select-box").first.click()
    await asyncio.sleep(1)
    await bench.shoot(out, x=0, y=0, width=1000, height=420)
    await bench.page.keyboard.press("Escape")


@contextlib.contextmanager
def many_epochs(project):
    """As many as a person at a debugger needs."""
    options = project / "train.toml"
    options.write_text("total_epochs = 5000\nsave_every = 5000\n")
    try:
        yield
    finally:
        options.unlink()


def processes():
    """The processes of debug sessions in VS Code's terminals and extensions."""
    found = set()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            name, environment = (process / "comm").read_text().strip(), (process / "environ").read_bytes()
        except OSError:    # it has ended
            continue
        if re.match("lldb-|cargo-ddp|demo-linear", name) and b"VSCODE_" in environment:
            found.add(f"{process.name} {name}")
    return found


async def at_breakpoint(bench, width):
    """Both ranks at the breakpoint, and the debug view this wide."""
    await bench.breakpoint(BREAK_AT)
    await bench.start(f"ddp: run {bench.project.name} on 2 ranks", 2)
    await bench.sidebar(width)
    await bench.panes("Variables", "Call Stack")


async def ranks(bench, out):
    await at_breakpoint(bench, 460)
    await bench.focus(1, "::train")
    await bench.shoot(out, x=0, y=0, width=1400, height=878)
    await bench.stop()


async def values(bench, out):
    await at_breakpoint(bench, 720)
    await bench.focus(1, "::train")
    await bench.panes("Variables")
    for name in ("x", "args"):    # from the bottom, so that the variables above stay visible
        await bench.unfold(name)
    await bench.shoot(out, x=48, y=0, width=1000, height=878)
    await bench.stop()


async def group(bench, out):
    """The ranks stop and continue together."""
    line, stopped, before = bench.number(BREAK_AT), "breakpoint", processes()
    await at_breakpoint(bench, 460)
    await bench.height(1600)
    for rank in (1, 0):    # the one whose keys are pressed keeps the focus
        await bench.focus(rank, "::train")
        await bench.until_at(rank, BREAK_AT)
        for text in (NEXT, AFTER_NEXT):
            await bench.page.keyboard.press("F10")
            await bench.until_at(rank, text)
            await bench.until_states(f"F10 in rank {rank}, to {text}", "step over", "step over")
            for other in (1 - rank, rank):
                await bench.focus(other, "::train")
                await bench.until_at(other, text)
        await bench.page.keyboard.press("F5")
        await bench.until_states(f"F5 in rank {rank}, to the breakpoint", stopped, stopped)
        await bench.until_at(rank, BREAK_AT)

    await bench.clear_breakpoint(BREAK_AT)
    await bench.breakpoint(BREAK_AT, RANK_1)
    await bench.focus(1, "::train")
    await bench.page.keyboard.press("F5")
    await bench.until_states("F5, to rank 1's breakpoint", f"Paused: rank 1 stopped at main.rs:{line}$", stopped)
    await bench.until_at(1, BREAK_AT)
    await bench.no_exception()
    await bench.focus(0)
    shown = [row for row in await bench.stack() if re.search(r"^\s*in .* frames?\)|::train", row)]
    assert len(shown) >= 2 and "::train" in shown[1] and await bench.rank() == 0, await bench.stack()
    print(f"rank 0 is shown at line {await bench.marked()}, {shown[0].strip()}")
    await bench.panes("Call Stack")
    await bench.height(960)
    await bench.shoot(out, x=0, y=0, width=1400, height=938)
    await bench.height(1600)

    await bench.clear_breakpoint(BREAK_AT)
    await bench.console(f"ddp break src/main.rs:{bench.number(NEXT)} --rank 1", "rank 1: breakpoint")
    await bench.hide_panel()
    await bench.page.keyboard.press("F5")
    await bench.until_states("F5, to the breakpoint of `ddp break`", f"Paused: rank 1 stopped at main.rs:{line + 1}$", stopped)
    await bench.focus(1, "::train")
    await bench.console("`breakpoint delete --force", "breakpoints removed")
    await bench.hide_panel()
    await bench.page.keyboard.press("F5")
    await bench.until_states("F5, without a breakpoint", "running", "running")
    await bench.page.keyboard.press("F6")
    await bench.until_states("F6", "Paused", "Paused")
    await bench.no_exception()
    assert len(processes() - before) >= 7    # among them three adapters with a server each
    await bench.stop()
    assert processes() <= before, processes() - before
    print("Stop: no process is left")


async def panic(bench, out):
    before = bench.source.read_text()
    try:
        lines = before.splitlines(keepends=True)
        at = next(n for n, line in enumerate(lines) if "run.optimizer.zero_grad()?" in line)
        bench.source.write_text("".join(lines[:at] + [BUG] + lines[at:]))
        await asyncio.sleep(2)
        await bench.start(f"ddp: run {bench.project.name} on 2 ranks", 1)
        await bench.sidebar(460)
        await bench.panes("Variables", "Call Stack")
        await bench.until_states("the panic", "Paused: rank 1 panicked$", "breakpoint")
        await bench.focus(1, "::train")
        await bench.shoot(out, x=0, y=0, width=1400, height=878)
        await bench.stop()
    finally:
        bench.source.write_text(before)


async def recording(bench, out):
    """A step over a collective, and a breakpoint in one rank."""
    page, out = bench.page, out.with_name("debugging.gif")
    await page.set_viewport_size({"width": 1040, "height": 842})
    await bench.breakpoint(BREAK_AT)
    await bench.choose(f"ddp: run {bench.project.name} on 2 ranks")
    await bench.sidebar(430)
    await bench.panes("Call Stack")
    await bench.line(BREAK_AT)
    await bench.hide_panel()
    async with Recording(page, x=0, y=0, width=1040, height=820) as made:
        await asyncio.sleep(1)
        await bench.launch(2)
        await bench.focus(1, "::train")
        await page.keyboard.press("F10")
        await bench.until_states("F10", "step over", "step over")
        await asyncio.sleep(3)
        await bench.breakpoint(BREAK_AT, RANK_1)
        await asyncio.sleep(1)
        await page.keyboard.press("F5")
        await bench.until_states("F5", "Paused: rank 1 stopped", "breakpoint")
        await asyncio.sleep(4)
        await bench.stop()
    made.save(out)


PICTURES = {"configurations": configurations, "ranks": ranks, "values": values, "group": group, "panic": panic,
            "recording": recording}


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []])
    parser.add_argument("--url", default="http://127.0.0.1:8765")
    args = parser.parse_args()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name in args.names or PICTURES:
            shutil.rmtree(args.project / "snapshots", ignore_errors=True)    # each run starts at the first epoch
            page = await browser.new_page(viewport={"width": 1400, "height": 900})
            bench = Workbench(page, args.url, args.project.resolve())
            await bench.open()
            try:
                with many_epochs(bench.project) if name in ("group", "recording") else contextlib.nullcontext():
                    await PICTURES[name](bench, args.out / f"debugging-{name}.png")
            except BaseException:
                await page.screenshot(path="failed.png")
                await page.keyboard.press("Shift+F5")
                await asyncio.sleep(2)
                raise
            await page.close()
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
