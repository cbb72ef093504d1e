"""A recording of a page, from screenshots with their real times."""
import asyncio, pathlib, subprocess, tempfile, time

PERIOD = 0.2      # seconds between two screenshots
LONGEST = 3       # seconds that a still picture stays
SHOWN = 3         # seconds that the last one stays
WIDTH = 900       # pixels
# Few colors, without dithering: text stays sharp, and the file small.
FILTER = (f"fps=5,scale={WIDTH}:-1:flags=lanczos,split[a][b];[a]palettegen=max_colors=64:stats_mode=diff[p];"
          "[b][p]paletteuse=dither=none:diff_mode=rectangle")


class Recording:
    def __init__(self, page, **clip):
        self.page, self.clip = page, clip
        self.frames = []    # (time, PNG), without repetitions
        self.task = None

    async def __aenter__(self):
        self.task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def _run(self):
        while True:
            begin = time.monotonic()
            picture = await self.page.screenshot(clip=self.clip, caret="initial")
            if not self.frames or self.frames[-1][1] != picture:
                self.frames.append((begin, picture))
            await asyncio.sleep(max(0, begin + PERIOD - time.monotonic()))

    def save(self, out):
        """Writes an animated GIF, with ffmpeg. Waits are shortened to LONGEST."""
        with tempfile.TemporaryDirectory() as folder:
            folder, entries = pathlib.Path(folder), []
            times = [when for when, _ in self.frames]
            lasting = [min(after - when, LONGEST) for when, after in zip(times, times[1:])] + [SHOWN]
            for number, (_, picture) in enumerate(self.frames):
                (folder / f"{number}.png").write_bytes(picture)
                entries.append(f"file {number}.png\nduration {lasting[number]:.3f}\n")
            # ffmpeg ignores the last one's duration, unless it comes twice.
            (folder / "frames").write_text("ffconcat version 1.0\n" + "".join(entries) + entries[-1].split("\n")[0] + "\n")
            subprocess.run(["ffmpeg", "-v", "error", "-y", "-f", "concat", "-i", folder / "frames", "-vf", FILTER, out], check=True)
        print(f"{out}: {sum(lasting):.0f} s, {len(self.frames)} pictures, {out.stat().st_size // 1024} kB")
