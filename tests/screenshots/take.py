#!/usr/bin/env python3
"""Takes the pictures of docs/debugging.md in a real VS Code workbench; see README.md.

    take.py PROJECT OUT [NAME…]      PROJECT: a built project of the template `linear`, with lldb-dap's configurations
"""
import argparse, asyncio, os, pathlib, re, shutil, subprocess, time
from playwright.async_api import async_playwright

BREAK_AT = "ddp.backward(&loss)?"
# A bug on the last rank only.
BUG = "            let _next = indices[(sampler.num_samples() - 1) * context.rank() + context.rank()];\n"


class Workbench:
    def __init__(self, page, url, project):
        self.page, self.url, self.project = page, url, project
        self.source = project / "src/main.rs"

    async def open(self):
        await self.page.goto(f"{self.url}/?folder={self.project}")
        await self.page.wait_for_selector(".monaco-workbench", timeout=60_000)
        await self.page.wait_for_selector(".explorer-folders-view .monaco-list-row", timeout=60_000)
        await asyncio.sleep(4)    # the extension host

    async def pick(self, key, text):
        await self.page.keyboard.press(key)
        await self.page.wait_for_selector(".quick-input-widget input:visible")
        await self.page.keyboard.type(text)
        await self.page.wait_for_selector(".quick-input-list .monaco-list-row")
        await asyncio.sleep(1.5)    # for the best of them
        await self.page.keyboard.press("Enter")
        await asyncio.sleep(0.5)

    async def line(self, text):
        """Puts the cursor on this text in the program."""
        number = next(n for n, line in enumerate(self.source.read_text().splitlines(), 1) if text in line)
        await self.pick("Control+p", "src/main.rs")
        await self.page.wait_for_selector(".tab:has-text('main.rs')")
        await self.pick("Control+g", str(number))

    async def breakpoint(self, text):
        await self.line(text)
        await self.page.keyboard.press("F9")
        await self.page.wait_for_selector(".editor-container .glyph-margin-widgets [class*='debug-breakpoint'], .margin [class*='debug-breakpoint']", state="attached")

    async def sidebar(self, width):
        edge = (await self.page.locator("[id='workbench.parts.sidebar']").bounding_box())
        await self.page.mouse.move(edge["x"] + edge["width"], 600)
        await self.page.mouse.down()
        await self.page.mouse.move(edge["x"] + width, 600, steps=5)
        await self.page.mouse.up()

    async def panes(self, *opened):
        for name in ("Variables", "Watch", "Call Stack", "Breakpoints"):
            header = self.page.locator(f".pane-header[aria-label^='{name}']").first
            if (await header.get_attribute("aria-expanded") == "true") != (name in opened):
                await header.click()
                await asyncio.sleep(0.4)

    async def stack(self):
        return await self.page.locator(".debug-call-stack .monaco-list-row").all_inner_texts()

    async def start(self, configuration, stopped, reason="BREAKPOINT"):
        """F5, until this many ranks have stopped for this reason."""
        await self.page.keyboard.press("Control+Shift+d")
        await self.page.locator("select").first.select_option(label=configuration)
        await self.line("fn main()")
        begin = time.monotonic()
        await self.page.keyboard.press("F5")
        while sum("rank" in row and reason in row.upper() for row in await self.stack()) < stopped:
            assert time.monotonic() - begin < 120, await self.stack()
            await asyncio.sleep(0.1)
        print(f"{configuration}: {stopped} ranks stopped after {time.monotonic() - begin:.1f} s")
        await asyncio.sleep(3)    # the variables
        if await self.page.locator("[id='workbench.parts.panel']:visible").count():
            await self.page.keyboard.press("Control+j")
        dialogs = await self.page.locator(".monaco-dialog-box, .notification-list-item").all_inner_texts()
        assert not dialogs, dialogs

    async def stop(self):
        await self.panes("Call Stack")
        await self.page.locator(".debug-call-stack .monaco-list-row").first.click()
        await self.page.keyboard.press("Shift+F5")
        while await self.page.locator(".debugging").count():
            await asyncio.sleep(0.2)
        await asyncio.sleep(1)

    async def focus(self, rank, function):
        """Of all that the call stack shows, opens this rank and its main thread only, and chooses a function."""
        rows = self.page.locator(".debug-call-stack .monaco-list-row")
        for other in range(2):
            row = rows.filter(has_text=f" rank {other}").first
            if await row.count() and await row.get_attribute("aria-expanded") == "true":
                await row.locator(".monaco-tl-twistie").click()
                await asyncio.sleep(0.5)
        for name in (f"{self.project.name} rank {rank}", self.project.name):
            row = rows.filter(has_text=re.compile(rf"^\s*{name}(?! rank)")).first
            if await row.get_attribute("aria-expanded") != "true":
                await row.locator(".monaco-tl-twistie").click()
                await asyncio.sleep(1)
        await rows.filter(has_text=function).first.click()
        await asyncio.sleep(2)

    async def unfold(self, name):
        row = self.page.locator(".debug-variables .monaco-list-row", has_text=re.compile(rf"^\s*{re.escape(name)}")).first
        await row.scroll_into_view_if_needed()
        await row.locator(".monaco-tl-twistie").click()
        await asyncio.sleep(0.8)

    async def shoot(self, out, **clip):
        await self.page.mouse.move(1300, 850)
        await asyncio.sleep(0.8)
        await self.page.screenshot(path=out, clip=clip or None)
        if shutil.which("pngquant"):
            subprocess.run(["pngquant", "--force", "--ext", ".png", "--speed", "1", out], check=True)
        print(out, os.path.getsize(out) // 1024, "kB")


async def configurations(bench, out):
    await bench.page.keyboard.press("Control+Shift+d")
    await bench.sidebar(460)
    await bench.line(BREAK_AT)
    await bench.panes("Variables", "Call Stack")
    await bench.page.locator(".monaco-select-box").first.click()
    await asyncio.sleep(1)
    await bench.shoot(out, x=0, y=0, width=1000, height=420)
    await bench.page.keyboard.press("Escape")


async def ranks(bench, out):
    await bench.breakpoint(BREAK_AT)
    await bench.start(f"ddp: run {bench.project.name} on 2 ranks", 2)
    await bench.sidebar(460)
    await bench.panes("Variables", "Call Stack")
    await bench.focus(1, "::train")
    await bench.shoot(out, x=0, y=0, width=1400, height=878)
    await bench.stop()


async def values(bench, out):
    await bench.breakpoint(BREAK_AT)
    await bench.start(f"ddp: run {bench.project.name} on 2 ranks", 2)
    await bench.sidebar(720)
    await bench.panes("Variables", "Call Stack")
    await bench.focus(1, "::train")
    await bench.panes("Variables")
    for name in ("x @", "args"):    # from the bottom, so that the variables above stay visible
        await bench.unfold(name)
    await bench.shoot(out, x=48, y=0, width=1000, height=878)
    await bench.stop()


async def panic(bench, out):
    before = bench.source.read_text()
    try:
        lines = before.splitlines(keepends=True)
        at = next(n for n, line in enumerate(lines) if "let batch = Tensor::from_slice" in line)
        bench.source.write_text("".join(lines[:at] + [BUG] + lines[at:]))
        await asyncio.sleep(2)
        await bench.start(f"ddp: run {bench.project.name} on 2 ranks", 1)
        await bench.sidebar(460)
        await bench.panes("Variables", "Call Stack")
        await bench.focus(1, "::train")
        await bench.shoot(out, x=0, y=0, width=1400, height=878)
        await bench.stop()
    finally:
        bench.source.write_text(before)


PICTURES = {"configurations": configurations, "ranks": ranks, "values": values, "panic": panic}


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
                await PICTURES[name](bench, args.out / f"debugging-{name}.png")
            except BaseException:
                await page.screenshot(path="failed.png")
                raise
            await page.close()
        await browser.close()


asyncio.run(main())
