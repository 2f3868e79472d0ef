"""The real WebUI as a process of the tests: its own data folder, its own port, ended by its own id."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
FLAGS = "--skip-torch-cuda-test --use-cpu all --api --no-download-sd-model --skip-version-check"
FULL = "--no-half --precision full"
SHIPPED = ("lora_ext", "scripts", "javascript", "localizations", "install.py", "style.css")
START_SECONDS = 600  # the first start may install packages


def webui_folder() -> Path:
    """WEBUI_DIR, or a loud skip."""
    given = os.environ.get("WEBUI_DIR", "")
    if not given:
        pytest.skip("NOT TESTED IN THE REAL WEBUI: set WEBUI_DIR to a stable-diffusion-webui 1.10.1 folder that starts")
    assert (Path(given) / "launch.py").is_file(), f"WEBUI_DIR={given} holds no stable-diffusion-webui"
    return Path(given)


class Server:
    """A running WebUI."""

    def __init__(
        self,
        webui: Path,
        python: Path,
        data: Path,
        checkpoints: list[Path],
        flags: str = "",
        login: str = "",
        precision: str = FULL,
        **settings: object,
    ) -> None:
        """`login` is `user:password`, sent with every request; `settings` go into the WebUI's config.

        With another `precision` the weights are float16, as on graphics cards.
        """
        self.data = data
        self._halves = precision != FULL
        self.log_in(login)
        self.loras = data / "models" / "Lora"
        self.log = data / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._lay_out(checkpoints, settings)
        words = f"{FLAGS} {precision} --port {self.port} --server-name 127.0.0.1 {flags}".split()
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(data / "hf"), "OMP_NUM_THREADS": "1"}
        environment |= {"COMMANDLINE_ARGS": "", "GRADIO_TEMP_DIR": str(data / "tmp")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(python), "-u", "launch.py", "--data-dir", str(data), *words],
                cwd=webui, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip
        self._wait()

    def _lay_out(self, checkpoints: list[Path], more: dict[str, object]) -> None:
        models = self.data / "models" / "Stable-diffusion"
        for folder in (models, self.loras):
            folder.mkdir(parents=True)
        for path in checkpoints:
            shutil.copy(path, models)
            shutil.copy(path.with_suffix(".yaml"), models)  # it names the .clip folder by its whole path
        self.copy_extension(ROOT, "lora-ext", SHIPPED)
        self.copy_extension(Path(__file__).parent / "probe", "probe", ("scripts",))
        if self._halves:
            self.copy_extension(Path(__file__).parent / "half_on_cpu", "half-on-cpu", ("scripts",))
        settings = {
            "show_progress_type": "Approx cheap",  # the others want a download
            "sd_model_checkpoint": checkpoints[0].name,
            "samples_save": False,
            **more,
        }
        (self.data / "config.json").write_text(json.dumps(settings), encoding="utf8")

    def copy_extension(self, source: Path, name: str, parts: tuple[str, ...]) -> None:
        target = self.data / "extensions" / name
        target.mkdir(parents=True)
        for part in parts:
            if (source / part).is_dir():
                shutil.copytree(source / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
            elif (source / part).exists():
                shutil.copy(source / part, target / part)

    def _wait(self, starts: int = 1) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            text = self.text()
            if text.count("Startup time:") >= starts and "Model loaded in" in text:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.5)
        self.stop()
        raise RuntimeError(f"the WebUI did not start:\n{self.text()[-6000:]}")

    def text(self) -> str:
        """The log so far."""
        return self.log.read_text(encoding="utf8", errors="replace")

    def stop(self) -> None:
        """End the process we started, and nothing else."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def log_in(self, login: str) -> None:
        """Send this user and password from now on; none when empty."""
        self.headers = {"content-type": "application/json"}
        if login:
            self.headers["authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"

    def reload_ui(self) -> None:
        """Settings > Reload UI."""
        starts = self.text().count("Startup time:")
        self.post("/probe/reload-ui", {})
        self._wait(starts + 1)

    def get(self, path: str, timeout: float = 300):
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, headers=self.headers), timeout=timeout
        ) as a:
            return json.load(a)

    def post(self, path: str, body: object, timeout: float = 600) -> dict:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), self.headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as e:
            raise AssertionError(f"{path}: {e.code} {e.read()[:2000].decode()}") from e

    def png(self, prompt: str = "a photo of a cat", **more: object) -> bytes:
        """txt2img through the API; the PNG's bytes."""
        return base64.b64decode(self.txt2img(prompt, **more)["images"][0])

    def txt2img(self, prompt: str, **more: object) -> dict:
        wish = {"prompt": prompt, "steps": 4, "width": 64, "height": 64, "seed": 1, **more}
        return self.post("/sdapi/v1/txt2img", wish)

    def pictures(self, prompt: str, **more: object) -> list[bytes]:
        """Several pictures of one request, without the grid."""
        answer = self.txt2img(prompt, **more)
        first = json.loads(answer["info"])["index_of_first_image"]
        return [base64.b64decode(image) for image in answer["images"][first:]]

    def infotext(self, prompt: str) -> str:
        return json.loads(self.txt2img(prompt)["info"])["infotexts"][0]

    def comments(self, prompt: str) -> str:
        """What the WebUI shows below the picture."""
        self.png(prompt)
        return self.get("/probe/comments")["comments"]

    def set(self, **options: object) -> None:
        self.post("/sdapi/v1/options", options)

    def load(self, checkpoint: str) -> None:
        """Switch the checkpoint, as the dropdown does."""
        if self.get("/sdapi/v1/options")["sd_model_checkpoint"].split(" ")[0] != checkpoint:
            self.set(sd_model_checkpoint=checkpoint)

    @contextlib.contextmanager
    def builtin(self):
        """Our setting that lets the builtin loader handle the tags."""
        self.set(lora_ext_builtin=True)
        try:
            yield
        finally:
            self.set(lora_ext_builtin=False)

    def start(self, name: str, pictures: Path, **more: object) -> None:
        wish = {"images": str(pictures), "output": name, "resolution": 64, "max_steps": 30, "rank": 4, "alpha": 4}
        self.post("/lora-ext/v1/job", {**wish, "learning_rate": 0.01, "overwrite": True, **more})

    def job(self) -> dict:
        return self.get("/lora-ext/v1/job")

    def wait_for_step(self, step: int) -> dict:
        return self._until(lambda job: job["step"] >= step or job["state"] not in ("running", "stopping"))

    def wait_for_end(self) -> dict:
        return self._until(lambda job: job["state"] not in ("running", "stopping"))

    def train(self, name: str, pictures: Path, **more: object) -> dict:
        """A whole run; fails unless it ends well."""
        self.start(name, pictures, **more)
        job = self.wait_for_end()
        assert job["state"] == "done", job["problems"]
        return job

    def _until(self, done, seconds: float = 300) -> dict:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            job = self.job()
            if done(job):
                return job
            time.sleep(0.1)
        raise AssertionError(f"the run did not get there: {job}")


def pixels(png: bytes) -> np.ndarray:
    """[H, W, 3] as int."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def apart(one: bytes, other: bytes) -> int:
    """Largest difference of two PNGs, of 255."""
    return int(abs(pixels(one) - pixels(other)).max())
