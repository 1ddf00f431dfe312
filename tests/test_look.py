"""Cards and reports in headless Chromium, where people open them: a file, nbconvert's HTML, JupyterLab trusted or not.

Skipped without playwright and a Chromium (on PATH, or of `playwright install chromium`).
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from test_cards import EVIL
from test_report import hostile_run, many
from test_traces import GAVE_UP, GOLD, OTHER, RECOVERED, episode, turn

from rezero.analysis import cards
from rezero.analysis.report import report

sync_api = pytest.importorskip("playwright.sync_api")
OUTAGE = turn("search", "leader", error="down", fault="outage", information="failed")
FULL = episode(
    turn("search", "leader of Corvane", OTHER, fault="stale+shuffled"),
    OUTAGE,
    turn("search", "Corvane crew varrow it", GOLD, thought="not found, $x$ and again $y$ " * 8),
    turn("malformed", "<think> lost"),
    turn("answer", "Ilse Varrow"),
    completion_ids=tuple(range(60)),
    env_mask=(1, 0) * 30,
)
WIDTHS, SCHEMES = (1100, 420), ("light", "dark")

# Per place: what must hold of all that cards show. Returns what does not.
FAILURES = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (let at = node; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  };
  const faded = node => {
    let share = 1;
    for (let at = node; at; at = at.parentElement) share *= Number(getComputedStyle(at).opacity);
    return share;
  };
  const failures = [], roots = [...document.querySelectorAll(".rezero")];
  if (roots.length !== WANTED) failures.push(`${roots.length} cards`);
  for (const root of roots) {
    root.querySelectorAll("details").forEach(one => { one.open = true; });
    for (const one of root.querySelectorAll("*")) {
      const style = getComputedStyle(one), box = one.getBoundingClientRect();
      const words = [...one.childNodes].filter(n => n.nodeType === 3 && n.textContent.trim()).length;
      if (!words) continue;
      const ground = behind(one), share = faded(one);
      const ink = rgb(style.color).slice(0, 3).map((v, i) => share * v + (1 - share) * ground[i]);
      const [high, low] = [light(ink), light(ground)].sort((a, b) => b - a);
      const what = `${one.tagName} "${one.textContent.trim().slice(0, 30)}"`;
      if ((high + 0.05) / (low + 0.05) < 4.5) failures.push(`contrast of ${what}: ${style.color} on ${ground}`);
      if (!["left", "start"].includes(style.textAlign)) failures.push(`${what} is aligned ${style.textAlign}`);
      if (box.right > innerWidth + 1) failures.push(`${what} ends at ${box.right}`);
    }
    const edges = [...root.querySelectorAll("details")].map(one => getComputedStyle(one).borderLeftWidth);
    if (!edges.includes("3px")) failures.push("passages have lost their edges");
  }
  return failures;
}"""


@pytest.fixture(scope="module")
def shown() -> list[cards.Page]:
    weights = {"correctness": 4, "recovery": 2, "efficiency": 0}
    return [
        cards.card(FULL, lambda ids: f"token {ids[0]} ", weights),
        cards.side_by_side(GAVE_UP, RECOVERED, weights=weights),
        cards.browser([FULL, GAVE_UP, RECOVERED], weights=weights),
    ]


def notebook(shown: list[cards.Page]) -> nbformat.NotebookNode:
    made = []
    for page in shown:
        html = '<i id="probe"></i>' + page._repr_html_()  # a sanitizer takes its id away
        data = {"text/html": html, "text/plain": repr(page)}
        output = nbformat.v4.new_output("execute_result", data, execution_count=1)
        made.append(nbformat.v4.new_code_cell("page", outputs=[output], execution_count=1))
    return nbformat.v4.new_notebook(cells=made)


def look(context, url: str, wanted: int, pictures: Path) -> None:
    """Open a page, wait for its cards, and check them at both widths; pictures are left for people."""
    page = context.new_page()
    page.goto(url)
    page.locator(".rezero").first.wait_for(timeout=60_000)
    if "lab" in pictures.name:
        page.locator(".jp-Dialog").get_by_role("button", name="No Kernel").click()
        assert (page.locator("#probe").count() == 0) == ("untrusted" in pictures.name)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_timeout(500)
        failures = page.evaluate(FAILURES.replace("WANTED", str(wanted)))
        for i, card in enumerate(page.locator(".rezero").all()):
            card.screenshot(path=f"{pictures}-{width}-{i}.png")
        assert not failures, f"{pictures.name} {width}: {failures[:5]}"
    page.close()


@pytest.mark.parametrize("scheme", [SCHEMES[0], pytest.param(SCHEMES[1], marks=pytest.mark.slow)])
def test_cards_in_files_and_in_nbconverts_html(chromium, shown, tmp_path, scheme):
    from nbconvert import HTMLExporter

    context = chromium.new_context(color_scheme=scheme)
    for number, page in enumerate(shown):
        look(context, page.save(tmp_path / f"{number}.html").as_uri(), 1, tmp_path / f"file-{number}-{scheme}")
    html, _ = HTMLExporter(theme=scheme).from_notebook_node(notebook(shown))
    path = tmp_path / "notebook.html"
    path.write_text(html, "utf-8")
    context.route("http**", lambda route: route.abort())  # nbconvert's page asks for MathJax and RequireJS
    look(context, path.as_uri(), len(shown), tmp_path / f"nbconvert-{scheme}")


@pytest.fixture(scope="module")
def lab(tmp_path_factory, shown):
    """(URL of a JupyterLab, the file of its theme); it serves trusted.ipynb and untrusted.ipynb."""
    root = tmp_path_factory.mktemp("lab")
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR")
    environment = os.environ | {name: str(root / name) for name in names}
    for name in ("trusted", "untrusted"):
        nbformat.write(notebook(shown), root / f"{name}.ipynb")
    sign = [sys.executable, "-m", "nbformat.sign", str(root / "trusted.ipynb")]
    subprocess.run(sign, env=environment, check=True, capture_output=True)
    options = ["--no-browser", "--port=0", "--IdentityProvider.token=", "--allow-root", f"--ServerApp.root_dir={root}"]
    with (root / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=root)
    try:
        for _ in range(120):
            found = list((root / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json"))
            if found or server.poll() is not None:
                break
            time.sleep(0.5)
        assert found, (root / "log.txt").read_text()[-2000:]
        theme = root / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "apputils-extension" / "themes.jupyterlab-settings"
        theme.parent.mkdir(parents=True)
        yield json.loads(found[0].read_text())["url"], theme
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["trusted", "untrusted"])
def test_cards_in_jupyterlab(chromium, lab, shown, tmp_path, name, scheme):
    url, theme = lab
    theme.write_text(json.dumps({"theme": f"JupyterLab {scheme.title()}"}))
    context = chromium.new_context(color_scheme=scheme)
    look(context, f"{url}doc/tree/{name}.ipynb", len(shown), tmp_path / f"lab-{name}-{scheme}")


def test_a_report_filters_searches_and_stays_inert(chromium, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(report(hostile_run()), "utf-8")
    page = chromium.new_page(viewport={"width": 420, "height": 800})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.goto(path.as_uri())
    assert page.inner_text("#count").startswith("3 of 3")
    page.locator("#list > details").first.click()
    page.locator("#list ol").first.wait_for()
    assert EVIL in page.inner_text("#list")
    assert page.locator("#list script, #list img, h1 script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.select_option("#facets label:has-text('outcome') select", "=stopped early")
    assert page.inner_text("#count").startswith("1 of 3")
    page.click("button[type=reset]")
    page.fill("#text", "CREW varrowson")  # one word of a query, one of a passage
    sync_api.expect(page.locator("#count")).to_contain_text("1 of 3")
    page.click("button[type=reset]")
    page.fill("#low", "1")
    sync_api.expect(page.locator("#count")).to_contain_text("2 of 3")
    assert asked == [path.as_uri()]


@pytest.mark.slow
def test_ten_thousand_episodes_open_and_filter_at_once(chromium, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(report(many(10_000)), "utf-8")
    page = chromium.new_page()
    start = time.perf_counter()
    page.goto(path.as_uri())
    page.locator("#list > details").nth(99).wait_for()
    opened = time.perf_counter() - start
    change = """([selector, value]) => {
      const control = document.querySelector(selector), start = performance.now();
      control.value = value;
      control.dispatchEvent(new Event("input", { bubbles: true }));
      document.body.getBoundingClientRect();
      return performance.now() - start;
    }"""
    controls = [("#facets select", "=after training"), ("#text", "mission 7 landed"), ("#low", "0.5"), ("#text", "")]
    paused = [page.evaluate(change, list(control)) for control in controls]
    start = time.perf_counter()
    page.locator("#list > details").first.click()
    page.locator("#list ol").first.wait_for()
    unpacked = time.perf_counter() - start
    print(f"{path.stat().st_size / 1e6:.1f} MB, open {opened:.2f} s, filters {paused} ms, a card {unpacked:.2f} s")
    assert opened < 3 and max(paused) < 200
