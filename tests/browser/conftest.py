from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright

from policies.rollout.verdicts import Verdict
from tests.browser.serving import DIGITS, SHOP, Served

# The flags keep the browser from asking anything of anybody but the page under test.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-domain-reliability",
]
LIMIT_MS = 60_000
"""For what should come at once: a busy machine may take its time."""
expect.set_options(timeout=LIMIT_MS)


def chromium() -> str:
    path = next(
        filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None
    )
    if path is None:
        pytest.fail("no Chromium here: install chromium-headless-shell, as 'make test' does")
    return path


@pytest.fixture(scope="package")
def driver() -> Iterator[Playwright]:
    """The one Playwright of this process: a second would find the first one's event loop running."""
    with sync_playwright() as found:
        yield found


@pytest.fixture(scope="package")
def browser(driver: Playwright) -> Iterator[Browser]:
    found = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
    yield found
    found.close()


QUIET = """quiet => new Promise(done => {
    let timer = setTimeout(end, quiet);
    const observer = new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(end, quiet); });
    function end() { observer.disconnect(); done(); }
    observer.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
})"""


@dataclass
class Tab:
    """A page, and all that must not happen on it."""

    page: Page
    origin: str
    complaints: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)
    """Statuses that the test brings about on purpose; the browser tells of them on the console."""

    def watch(self) -> None:
        self.page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "request", lambda r: None if r.url.startswith(self.origin) else self.strangers.append(r.url)
        )

    def settled(self) -> None:
        """Waits until the page has a heading and nothing has changed on it for 300 ms."""
        self.page.locator("h1").wait_for()
        self.page.evaluate(QUIET, 300)

    def check(self) -> None:
        told = [c for c in self.complaints if not any(f"status of {status}" in c for status in self.refused)]
        assert not told
        assert not self.strangers


class Tabs:
    """Opens pages in fresh contexts; each is checked when the test ends."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.contexts: list[BrowserContext] = []
        self.open: list[Tab] = []

    def new(
        self,
        origin: str,
        path: str = "/-/dashboard/",
        *,
        width: int = 1280,
        clock: bool = False,
        **options: object,
    ) -> Tab:
        """A page of its own context. With ``clock`` a test may move its time on: ``page.clock.run_for(ms)``."""
        context = self.browser.new_context(viewport={"width": width, "height": 900}, **options)  # type: ignore[arg-type]
        context.set_default_timeout(LIMIT_MS)
        self.contexts.append(context)
        tab = Tab(context.new_page(), origin)
        tab.watch()
        if clock:
            tab.page.clock.install()
        tab.page.goto(origin + path)
        self.open.append(tab)
        return tab


@pytest.fixture
def tabs(browser: Browser) -> Iterator[Tabs]:
    made = Tabs(browser)
    yield made
    for context in made.contexts:
        context.close()
    for tab in made.open:
        tab.check()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Empty, without auth."""
    found = Served(tmp_path / "turnout.db").start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway with twenty minutes behind it; tests only look."""
    found = Served(tmp_path_factory.mktemp("lived") / "turnout.db", start=time.time() - 1210).start()
    found.live(DIGITS, steps=60, per_step=50, step=20.0)
    found.wind(-1200)
    found.live(SHOP, steps=60, per_step=30, step=20.0, seed=3)
    found.set_rollout(
        "shop",
        {
            "state": "running",
            "phase": "canary",
            "stage": 0,
            "weight": 0.1,
            "verdicts": [
                Verdict(
                    "error_rate",
                    "fail",
                    "max_increase",
                    0.005,
                    0.02,
                    0.017,
                    (0.006, 0.03),
                    0.003,
                    0.02,
                    900.0,
                    "over the limit",
                ).as_dict(),
                Verdict(
                    "latency_p99",
                    "inconclusive",
                    "max_ratio",
                    1.2,
                    0.02,
                    1.08,
                    (0.9, 1.4),
                    92.0,
                    99.4,
                    900.0,
                    "",
                    400,
                    12.0,
                ).as_dict(),
            ],
        },
    )
    found.harness.shadow_counts["digits"] = {"v3": {"offered": 3000, "sent": 2990, "dropped": 10}}
    yield found
    found.stop()


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With keys."""
    found = Served(tmp_path_factory.mktemp("locked") / "turnout.db", keys=True).start()
    yield found
    found.stop()
