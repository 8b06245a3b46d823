"""What a person sees in MLflow's own pages, in a real Chromium."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from command_line import SMALL

from kdexp.tracking.store import Study

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture
def page():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1600, "height": 1200})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.fixture
def server(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    yield address
    os.killpg(process.pid, 9)
    process.wait()


def wait_for(address, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if urllib.request.urlopen(f"{address}/health", timeout=2).status == 200:
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail("mlflow ui does not answer")


@pytest.mark.usefixtures("empty_store")
def test_a_sweep_can_be_compared_without_set_up(kdexp, tmp_path, server, page):
    result = kdexp(
        "-m", "study=grid", "loss.alpha=0.2,0.5,0.8", "loss.temperature=1,4", *SMALL, "tracking.log_model=false"
    )
    assert result.returncode == 0, result.stderr
    view = re.search(r"^view +(\S+)", result.stdout, re.MULTILINE)[1].replace("http://127.0.0.1:5000", server)
    study = Study(f"sqlite:///{tmp_path}/mlflow.db", "grid")
    (parent,) = [run for run in study.runs() if "kdexp.sweep_key" in run.tags]
    wait_for(server)

    # The printed link opens the saved view with its charts, the contour of alpha x temperature among them.
    page.goto(view)
    contours = page.locator(".plotly .contourlayer .contour")
    contours.first.wait_for()
    page.wait_for_timeout(1000)
    axes = page.locator(".js-plotly-plot").first.inner_text()
    assert "loss.alpha" in axes
    assert "loss.temperature" in axes
    if os.environ.get("KDEXP_SCREENSHOTS"):
        page.screenshot(path=f"{os.environ['KDEXP_SCREENSHOTS']}/view.png")

    # The same view as a table shows the children flat, with the columns that matter.
    page.goto(view.replace("&compareRunsMode=CHART", ""))
    page.get_by_role("link", name=re.compile("kd a=0.2 T=1")).first.wait_for()
    assert page.get_by_text("loss.alpha").count() > 0
    if os.environ.get("KDEXP_SCREENSHOTS"):
        page.screenshot(path=f"{os.environ['KDEXP_SCREENSHOTS']}/table.png")

    # The parent shows its children, and the heatmap as a picture.
    page.goto(f"{server}/#/experiments/{study.experiment_id}/runs/{parent.run_id}")
    page.get_by_text("best/validation").first.wait_for()
    page.goto(f"{server}/#/experiments/{study.experiment_id}/runs/{parent.run_id}/artifacts/summary/heatmap.png")
    picture = page.locator("img[src^='blob:'], img[src*='heatmap']").first
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 500
    if os.environ.get("KDEXP_SCREENSHOTS"):
        page.screenshot(path=f"{os.environ['KDEXP_SCREENSHOTS']}/heatmap.png")
