"""The page of `--report FILE.html` in a browser."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from support.reports import judged

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def browser(tmp_path):
    """Let Chromium open a page; returns its DOM afterwards, or writes a screenshot."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")

    def visit(page, *options):
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, *FLAGS, profile, *options, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)

    return visit


@pytest.fixture
def page(invert_folder, tmp_path):
    invert_folder("--report", tmp_path / "r.html")
    return tmp_path / "r.html"


@pytest.mark.slow
def test_the_browser_logs_no_error_and_loads_every_image(browser, page, tmp_path):
    probe = tmp_path / "probe.html"
    check = """<script>addEventListener("load", function () {
      var images = Array.from(document.images);
      document.title = images.length + " images, " +
        images.filter(function (one) { return one.naturalWidth > 0; }).length + " shown";
    });</script></body>"""
    probe.write_text(page.read_text().replace("</body>", check))
    seen = browser(probe, "--dump-dom", "--enable-logging=stderr")
    assert "<title>6 images, 6 shown</title>" in seen.stdout
    assert "CONSOLE" not in seen.stderr


@pytest.mark.slow
def test_a_slider_uncovers_the_image_and_has_a_value(browser, page, tmp_path):
    probe = tmp_path / "probe.html"
    check = """<script>addEventListener("load", function () {
      var slider = document.querySelector(".frame input");
      slider.focus();
      slider.stepUp(10);
      slider.dispatchEvent(new Event("input", {bubbles: true}));
      var pair = slider.closest(".pair"), style = getComputedStyle(pair);
      document.title = [pair.style.getPropertyValue("--x"), slider.getAttribute("aria-valuetext"),
        document.activeElement === slider, style.outlineStyle,
        getComputedStyle(pair.querySelectorAll("img")[1]).clipPath].join("|");
    });</script></body>"""
    probe.write_text(page.read_text().replace("</body>", check))
    title = re.search("<title>(.*?)</title>", browser(probe, "--dump-dom").stdout)[1]
    assert title.split("|") == [
        "70",
        "70 % before, the rest after",
        "true",
        "solid",
        "inset(0px 0px 0px 70%)",
    ]


@pytest.mark.slow
def test_images_are_sorted_by_what_was_found(browser, tmp_path):
    probe = tmp_path / "probe.html"
    check = """<script>addEventListener("load", function () {
      var select = document.querySelector(".sort select"), orders = [select.checkVisibility()];
      ["noise", ""].forEach(function (kind) {
        select.value = kind;
        select.dispatchEvent(new Event("change"));
        document.querySelectorAll(".sorted").forEach(function (list) {
          orders.push(Array.from(list.querySelectorAll(".name"), function (name) {
            return name.textContent[0];
          }).join(""));
        });
      });
      document.title = orders.join("|");
    });</script></body>"""
    probe.write_text(judged(tmp_path / "r.html").replace("</body>", check))
    title = re.search("<title>(.*?)</title>", browser(probe, "--dump-dom").stdout)[1]
    assert title == "true|102|102|012|012"


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)])
def test_the_page_follows_the_color_scheme_of_the_browser(browser, page, tmp_path, scheme, dark):
    shot = tmp_path / "shot.png"
    wish = f"--blink-settings=preferredColorScheme={scheme}"
    browser(page, f"--screenshot={shot}", "--window-size=1280,1400", "--hide-scrollbars", wish)
    corner = np.asarray(Image.open(shot).convert("L"))[:8, :8].mean()
    assert bool(corner < 60) is dark
