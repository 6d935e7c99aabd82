"""stub"""

import asyncio
import time


class Progress:
    def __init__(self, targets, clock=time.monotonic):
        self.version = 0
        self.phase = "starting"
        self.reason = ""
        self.extra = {}
        self._c = asyncio.Event()
        self.t = clock()

    async def changed(self, version):
        while self.version == version:
            await asyncio.sleep(0.05)

    def enter(self, phase, *, reason="", retry_in_s=None):
        self.phase = phase
        self.reason = reason
        self.version += 1

    def follow(self, event):
        self.version += 1

    def end(self, report, error):
        self.version += 1

    def told(self, *, details):
        return {
            "phase": self.phase,
            "elapsed_s": 0.0,
            "done": None,
            "total": None,
            **({"reason": self.reason} if details else {}),
        }
