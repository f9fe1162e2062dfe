#!/usr/bin/env python3
"""How many live streams one core of this machine holds: time from the end of a chunk to its text, over 1 to N clients.

    python benchmarks/serve.py [--exp-dir models/sammo-tiny] [--chunk-size 32] [--runtimes torch,openvino] [--clients 1,2,4,...]

Starts `sammo serve` on one core, and clients on the others, which send an utterance again and again in real time over
the loopback, each beginning at another moment. A text's latency is counted from the moment when the last sample of
the audio that it needed was sent. The number of clients grows until the 99th percentile exceeds the chunk, or the server
is not real time any more. Bytes a stream: how much larger the server has become, by the number of clients. The model
that comes with the repository has 2 M parameters.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
from machine import machine  # noqa: E402
from websockets.asyncio.client import connect  # noqa: E402

from sammo import geometry  # noqa: E402
from sammo.errors import UserError, run_main  # noqa: E402
from sammo.markdown import markdown_table  # noqa: E402
from sammo.options import OWN_PACKAGE, integers, names  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RUNTIMES = ("torch", "onnxruntime", "openvino")
PIECE = 0.04  # seconds that a client sends at a time
# Audio that a chunk needs beyond what it takes: the encoder's look-ahead, and the rest of the last feature window.
AHEAD = geometry.WINDOW_EXTRA / geometry.FEATURE_RATE + 0.015


class Load(NamedTuple):
    """What some clients saw: seconds."""

    clients: int
    latencies: list[float]
    behind: float  # audio that was sent and not computed at the end, the most of any client
    cpu: float  # of the server, by second
    memory: int  # bytes of the server


async def client(url: str, audio: bytes, seconds: float, start: float, chunk: int) -> tuple[list[float], float]:
    """Sends in real time; (latencies of its texts, how far the server is behind at the end)."""
    latencies: list[float] = []
    sent: list[float] = []  # moment at which each piece had been sent
    size = round(PIECE * 16000) * 2
    taken = 0.0

    async with connect(url, max_size=None, proxy=None, compression=None) as socket:
        await socket.send(json.dumps({"type": "start", "chunk_size": chunk}))

        async def receive() -> None:
            nonlocal taken
            async for message in socket:
                found = json.loads(message)
                if found["type"] == "error":
                    raise UserError(found["message"])
                if found["type"] in ("partial", "final"):
                    taken = found["taken"]
                    piece = min(int((taken + AHEAD) / PIECE), len(sent) - 1)
                    latencies.append(time.monotonic() - sent[piece])

        receiver = asyncio.create_task(receive())
        begin = time.monotonic() + start
        for number in range(round(seconds / PIECE)):
            await asyncio.sleep(max(0.0, begin + (number + 1) * PIECE - time.monotonic()))
            place = number * size % (len(audio) - size)
            await socket.send(audio[place : place + size])
            sent.append(time.monotonic())
            if receiver.done():
                await receiver
        behind = len(sent) * PIECE - taken
        receiver.cancel()
    return latencies, behind


async def load(port: int, pid: int, audio: bytes, clients: int, seconds: float, chunk: int) -> Load:
    """``clients`` at once."""
    url = f"ws://127.0.0.1:{port}/v1/stream"
    rng = np.random.default_rng(clients)
    width = chunk / geometry.RATE
    before, began = _cpu(pid), time.monotonic()
    tasks = [client(url, audio, seconds, float(rng.uniform(0, width)), chunk) for _ in range(clients)]
    watching = asyncio.create_task(_memory_late(pid, seconds))
    found = await asyncio.gather(*tasks)
    cpu = (_cpu(pid) - before) / (time.monotonic() - began)
    memory = await watching
    latencies = [value for values, _ in found for value in values]
    return Load(clients, latencies, max(behind for _, behind in found), cpu, memory)


async def _memory_late(pid: int, seconds: float) -> int:
    await asyncio.sleep(0.8 * seconds)
    return _memory(pid)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def start_server(arguments: list[str], core: int) -> tuple[subprocess.Popen, int]:
    """(the process, its port)"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "sammo.cli", "serve", "--port", "0", "--num-threads", "1", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, {core})
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.match(r"http://[^ ]*:(\d+)", line):
            return process, int(match[1])
    raise UserError("the server did not start")


def percentiles(values: list[float]) -> list[float]:
    return np.quantile(values, [0.5, 0.95, 0.99]).tolist() if values else [float("inf")] * 3


def measure(runtime: str, args: argparse.Namespace, audio: bytes, cores: list[int]) -> list[list[str]]:
    """The rows of one runtime."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        arguments = ["--exp-dir", str(args.exp_dir), "--chunk-size", str(args.chunk_size), "--max-clients", "10000"]
        if runtime != "torch":
            export = [sys.executable, "-m", "sammo.cli", "export", "--exp-dir", str(args.exp_dir)]
            export += ["--chunk-size", str(args.chunk_size), "--out-dir", directory]
            export += ["--openvino", str(runtime == "openvino").lower()]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run(export, check=True, env=environment, stdout=subprocess.DEVNULL)
            arguments += ["--runtime", runtime, "--onnx-dir", directory]
        process, port = start_server(arguments, cores[0])
        os.sched_setaffinity(0, set(cores[1:]) or set(cores))
        try:
            asyncio.run(load(port, process.pid, audio, 1, 3.0, args.chunk_size))  # warm
            empty = _memory(process.pid)
            most = 0
            for clients in args.clients:
                found = asyncio.run(load(port, process.pid, audio, clients, args.seconds, args.chunk_size))
                p50, p95, p99 = percentiles(found.latencies)
                width = args.chunk_size / geometry.RATE
                holds = p99 <= width and found.behind <= 2 * width + AHEAD + 1.0
                most = clients if holds else most
                a_stream = max(0, found.memory - empty) / clients / 1024
                numbers = [f"{1000 * value:.0f}" for value in (p50, p95, p99)]
                rows.append([runtime, str(clients), *numbers, f"{found.cpu:.2f}", f"{a_stream:.0f}"])
                print(f"{runtime}, {clients} clients: p99 {1000 * p99:.0f} ms, {found.cpu:.2f} cores", file=sys.stderr)
                if not holds:
                    break
            rows.append([f"**{runtime}**", f"**{most} a core**", *[""] * 5])
        finally:
            process.terminate()
            process.wait(20)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--exp-dir", type=Path, default=OWN_PACKAGE, help="The model (default: the repository's).")
    parser.add_argument("--audio", type=Path, default=ROOT / "models/sample.wav", help="What the clients say, 16 kHz.")
    parser.add_argument("--chunk-size", type=int, default=32, help="Frames of 20 ms (default: 32).")
    parser.add_argument("--runtimes", type=names, default=RUNTIMES, help=f"Default: {','.join(RUNTIMES)}.")
    parser.add_argument(
        "--clients", type=integers, default=(1, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256), help="Numbers to try."
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="That each of them is sent for (default: 10).")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    samples, rate = soundfile.read(args.audio, dtype="int16")
    if rate != 16000 or samples.ndim != 1:
        raise UserError(f"{args.audio} must be one channel at 16 kHz")
    print(
        f"{machine(threads=1)}; chunks of {args.chunk_size / geometry.RATE:g} s; milliseconds to the text of a chunk\n"
    )
    head = ["runtime", "clients", "p50", "p95", "p99", "cores used", "KiB a stream"]
    rows = [row for runtime in args.runtimes for row in measure(runtime, args, samples.tobytes(), cores)]
    print("\n".join(markdown_table(head, rows)))


if __name__ == "__main__":
    run_main(main)
