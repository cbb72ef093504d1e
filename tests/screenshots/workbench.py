"""VS Code's workbench in a browser, as a user sees and uses it."""
import asyncio, os, re, shutil, subprocess, time

ROWS = ".debug-call-stack .monaco-list-row"
LIMIT = 20    # seconds for what follows a key


class Workbench:
    def __init__(self, page, url, project):
        self.page, self.url, self.project = page, url, project
        self.source = project / "src/main.rs"

    async def open(self):
        await self.page.goto(f"{self.url}/?folder={self.project}")
        await self.page.wait_for_selector(".monaco-workbench", timeout=60_000)
        await self.page.wait_for_selector(".explorer-folders-view .monaco-list-row", timeout=60_000)
        await asyncio.sleep(4)    # the extension host

    # --- the editor ---------------------------------------------------------------------------------------------------

    async def pick(self, key, text):
        await self.page.keyboard.press(key)
        await self.page.wait_for_selector(".quick-input-widget input:visible")
        await self.page.keyboard.type(text)
        await self.page.wait_for_selector(".quick-input-list .monaco-list-row")
        await asyncio.sleep(1.5)    # until the best match is the first one
        await self.page.keyboard.press("Enter")
        await asyncio.sleep(0.5)

    def number(self, text):
        """The program's first line with this text."""
        return next(n for n, line in enumerate(self.source.read_text().splitlines(), 1) if text in line)

    async def line(self, text):
        """Puts the cursor on this text in the program."""
        await self.pick("Control+p", "src/main.rs")
        await self.page.wait_for_selector(".tab:has-text('main.rs')")
        await self.pick("Control+g", str(self.number(text)))

    def breakpoints(self):
        return self.page.locator(".margin [class*='debug-breakpoint'], .glyph-margin-widgets [class*='debug-breakpoint']")

    async def breakpoint(self, text, condition=None):
        """Sets a breakpoint on this text."""
        await self.line(text)
        if condition is None:
            await self.page.keyboard.press("F9")
        else:
            await self.pick("F1", "Debug: Add Conditional Breakpoint...")
            await self.page.wait_for_selector(".breakpoint-widget")
            await self.page.keyboard.type(condition)
            await self.page.keyboard.press("Enter")
        await self.breakpoints().first.wait_for(state="attached")

    async def clear_breakpoint(self, text):
        await self.line(text)
        await self.page.keyboard.press("F9")
        await self.until("no breakpoint", lambda: self.is_absent(self.breakpoints()))

    async def is_absent(self, locator):
        return await locator.count() == 0

    async def marked(self):
        """The number of the line that the editor marks as the one where the program has stopped, or None."""
        return await self.page.evaluate("""() => {
            const top = (element) => Math.round(element.getBoundingClientRect().top);
            const mark = document.querySelector(".debug-top-stack-frame-line, .debug-focused-stack-frame-line");
            const numbers = [...document.querySelectorAll(".margin-view-overlays .line-numbers")];
            const number = mark && numbers.find((one) => Math.abs(top(one) - top(mark)) < 5);
            return number ? Number(number.textContent) : null;
        }""")

    # --- the debug view -----------------------------------------------------------------------------------------------

    async def height(self, pixels):
        await self.page.set_viewport_size({"width": 1400, "height": pixels})
        await asyncio.sleep(1)

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

    async def hide_panel(self):
        if await self.page.locator("[id='workbench.parts.panel']:visible").count():
            await self.page.keyboard.press("Control+j")

    async def stack(self):
        return await self.page.locator(ROWS).all_inner_texts()

    async def states(self):
        """What the call stack says of each rank's session, by rank."""
        rows = await self.page.evaluate(f"""() => [...document.querySelectorAll("{ROWS}")].map((row) =>
            [row.querySelector(".name")?.textContent ?? "", row.querySelector(".state")?.textContent ?? ""])""")
        found = [(re.fullmatch(r".* rank (\d+)", name), state) for name, state in rows]
        return {int(match[1]): state for match, state in found if match}

    async def rank(self):
        """The rank whose variables are shown, or None."""
        rows = await self.page.locator(".debug-variables .monaco-list-row").all_text_contents()
        return next((int(match[1]) for row in rows if (match := re.search(r"context\W+rank\s(\d+)", row))), None)

    async def until(self, what, is_so, limit=LIMIT):
        """Waits until this function returns true; returns the seconds."""
        begin = time.monotonic()
        while not await is_so():
            assert time.monotonic() - begin < limit, f"{what}: {await self.stack()}, line {await self.marked()}, rank {await self.rank()}"
            await asyncio.sleep(0.05)
        return time.monotonic() - begin

    async def until_states(self, what, *states, limit=LIMIT):
        """Waits until the ranks' states match these regular expressions."""
        async def match():
            now = await self.states()
            return len(now) == len(states) and all(re.match(state, now.get(rank, ""), re.I) for rank, state in enumerate(states))
        print(f"{what}: {await self.until(what, match, limit):.1f} s")

    async def until_at(self, rank, text):
        """Waits until this rank's variables are shown, and the editor marks this text."""
        async def at():
            return await self.marked() == self.number(text) and await self.rank() == rank
        await self.until(f"rank {rank} at {text}", at)

    async def no_exception(self):
        """That nothing is presented as an exception, and that no dialog is open."""
        text = await self.page.locator(".exception-widget, .monaco-dialog-box, .notification-list-item").all_inner_texts()
        assert not text and "Exception" not in " ".join(await self.stack()), text

    async def choose(self, configuration):
        await self.page.keyboard.press("Control+Shift+d")
        await self.page.locator("select").first.select_option(label=configuration)
        await self.line("fn main()")

    async def launch(self, stopped, reason="BREAKPOINT"):
        """F5, until this many ranks have stopped for this reason."""
        begin = time.monotonic()
        await self.page.keyboard.press("F5")
        while sum("rank" in row and reason in row.upper() for row in await self.stack()) < stopped:
            assert time.monotonic() - begin < 120, await self.stack()
            await self.no_exception()
            await asyncio.sleep(0.1)
        print(f"F5: {stopped} ranks stopped after {time.monotonic() - begin:.1f} s")
        await asyncio.sleep(3)    # the variables
        await self.hide_panel()
        await self.no_exception()

    async def start(self, configuration, stopped):
        await self.choose(configuration)
        await self.height(1600)    # no row of the call stack is out of sight
        await self.launch(stopped)
        await self.height(900)

    async def stop(self):
        await self.panes("Call Stack")
        await self.page.locator(ROWS).first.click()
        await self.page.keyboard.press("Shift+F5")
        await self.until("end of the sessions", lambda: self.is_absent(self.page.locator(".debugging")))
        await asyncio.sleep(1)

    async def focus(self, rank, function=None):
        """Of all that the call stack shows, opens this rank and its main thread only, and chooses a function, or else what
        VS Code chooses."""
        rows = self.page.locator(ROWS)
        for other in range(2):
            row = rows.filter(has_text=f" rank {other}").first
            if await row.count() and await row.get_attribute("aria-expanded") == "true":
                await row.locator(".monaco-tl-twistie").click()
                await asyncio.sleep(0.5)
        for name in (f"{self.project.name} rank {rank}", self.project.name):
            row = rows.filter(has_text=re.compile(rf"^\s*{name}(?! rank)")).first
            if not function:
                await row.click()
                await asyncio.sleep(0.5)
            if await row.get_attribute("aria-expanded") != "true":
                await row.locator(".monaco-tl-twistie").click()
                await asyncio.sleep(1)
        if function:
            await rows.filter(has_text=function).first.click()
        await asyncio.sleep(2)

    async def unfold(self, name):
        row = self.page.locator(".debug-variables .monaco-list-row", has_text=re.compile(rf"^\s*{re.escape(name)}")).first
        await row.scroll_into_view_if_needed()
        await row.locator(".monaco-tl-twistie").click()
        await asyncio.sleep(0.8)

    async def console(self, text, answer):
        """Types a command into the debug console, and waits for this part of the answer."""
        await self.page.keyboard.press("Control+Shift+y")
        await self.page.locator(".repl-input-wrapper .monaco-editor").click()
        await self.page.keyboard.type(text)
        await self.page.keyboard.press("Enter")
        await self.page.locator(".repl .monaco-list-row", has_text=answer).first.wait_for(timeout=LIMIT * 1000)

    async def shoot(self, out, **clip):
        await self.page.mouse.move(1300, 850)
        await asyncio.sleep(0.8)
        await self.page.screenshot(path=out, clip=clip or None)
        if shutil.which("pngquant"):
            subprocess.run(["pngquant", "--force", "--ext", ".png", "--speed", "1", out], check=True)
        print(out, os.path.getsize(out) // 1024, "kB")
