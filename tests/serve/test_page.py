"""The page of sammo serve in a real browser, with a file as its microphone."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
from fixtures.chromium import PROGRAM, chromium  # noqa: E402
from fixtures.serving import expected, loud_model, pcm, save_wav, serving  # noqa: E402

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here")
TEXT = "[...document.querySelectorAll('#transcript p')].map((p) => p.lastChild.textContent).join('|')"


@pytest.fixture(scope="module")
def model():
    return loud_model()


def click(page, name: str) -> None:
    page.evaluate(f"document.getElementById('{name}').click()")


def test_a_file_gives_the_text_of_transcribe(model, tmp_path: Path):
    samples, _ = pcm(3.0, 1)
    path = save_wav(tmp_path / "<b>speech.wav", samples)
    with serving(model) as (port, _), chromium() as page:
        page.open(f"http://127.0.0.1:{port}/")
        page.evaluate("document.getElementById('chunk').value = 0")  # the chunk that expected() has
        page.choose_file("#file", path)
        page.wait("document.getElementById('status').textContent.includes('3.0 s transcribed')")
        assert page.evaluate(TEXT) == "|".join(expected(model, samples))
        assert page.evaluate("document.getElementById('status').children.length") == 0  # a name is no markup
        assert page.evaluate("document.getElementById('state').textContent") == "1 KiB, always"
        assert not page.evaluate("document.getElementById('save-srt').disabled")
        path.write_bytes(b"not audio")
        page.choose_file("#file", path)
        page.wait("document.getElementById('status').textContent.includes('is not audio')")


def test_microphone_and_latency(model, tmp_path: Path):
    """Text appears while it listens; the latency changes in mid-stream and nothing starts anew."""
    path = save_wav(tmp_path / "speech.wav", pcm(30.0, 2)[0])
    with serving(model) as (port, server), chromium(path) as page:
        page.open(f"http://127.0.0.1:{port}/")
        click(page, "microphone")
        page.wait("document.getElementById('partial').textContent.length > 3")
        before = page.evaluate("document.getElementById('partial').textContent")
        page.evaluate("(chunk => { chunk.value = 2; chunk.oninput(); })(document.getElementById('chunk'))")
        assert page.evaluate("document.getElementById('seconds').textContent") == "1.28 s"
        page.wait(f"document.getElementById('partial').textContent.length > {len(before) + 3}")
        assert page.evaluate("document.getElementById('partial').textContent").startswith(before)
        (session,) = server.engine.sessions.all()
        assert session.chunk_size == 64
        click(page, "microphone")
        page.wait("document.querySelectorAll('#transcript p').length > 0")
        assert page.evaluate(TEXT).startswith(before)


def test_without_a_microphone_or_a_token(model):
    with serving(model, token="geheim") as (port, _), chromium() as page:
        page.open(f"http://127.0.0.1:{port}/")
        page.evaluate(
            "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotFoundError'))"
        )
        click(page, "microphone")
        page.wait("document.getElementById('status').textContent === 'There is no microphone.'")


@pytest.mark.parametrize("size", ["360,640", "1280,800"])
def test_keyboard_names_and_phones(model, size):
    """Every control has a name and can be reached; nothing is wider than a phone."""
    with serving(model) as (port, _), chromium(size=size) as page:
        page.open(f"http://127.0.0.1:{port}/")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
        roles = {node["role"]["value"]: node.get("name", {}).get("value") for node in nodes if not node.get("ignored")}
        assert roles["slider"].startswith("Latency") and roles["log"] == "Transcript"
        buttons = [node["name"]["value"] for node in nodes if node["role"]["value"] == "button"]
        assert "Start microphone" in buttons and all(buttons)
