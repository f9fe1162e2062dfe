"""Small acoustics with NumPy: resampling, rooms, coloured noise, and 16-bit WAV bytes.  All functions are deterministic."""

from __future__ import annotations

import io
import wave

import numpy as np

RATE = 16000


def resample_fft(x: np.ndarray, count: int) -> np.ndarray:
    """Band-limited resampling of x (T,) to count samples by cutting or padding its spectrum."""
    spectrum = np.fft.rfft(x)
    out = np.zeros(count // 2 + 1, dtype=spectrum.dtype)
    keep = min(len(out), len(spectrum))
    out[:keep] = spectrum[:keep]
    return np.fft.irfft(out, count) * (count / len(x))


def smooth_size(size: int) -> int:
    """The smallest number >= size with no prime factor above 5: FFTs of that length are fast."""
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1


def convolve(x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """x (T,) filtered by h (K,), cut to T samples."""
    size = smooth_size(len(x) + len(h) - 1)
    return np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(h, size), size)[: len(x)]


def room_response(rng: np.random.Generator, reverberation: float, direct_to_tail_db: float) -> np.ndarray:
    """Impulse response of a small room: a direct pulse, four early reflections, a decaying noise tail.

    reverberation: seconds until the tail has fallen by 60 dB; direct_to_tail_db: energy of the direct pulse over the
    rest.
    """
    count = max(64, int(reverberation * RATE))
    time = np.arange(count) / RATE
    tail = rng.standard_normal(count) * 10.0 ** (-3.0 * time / reverberation)
    tail[: int(0.002 * RATE)] = 0.0
    for delay in rng.uniform(0.003, 0.018, size=4):
        tail[min(count - 1, int(delay * RATE))] += rng.choice((-1.0, 1.0)) * 2.0
    tail *= np.sqrt(10.0 ** (-direct_to_tail_db / 10.0) / np.sum(tail**2))
    tail[0] = 1.0
    return tail


def coloured_noise(rng: np.random.Generator, count: int, slope_db_per_octave: float) -> np.ndarray:
    """Noise of unit power whose spectrum falls by slope_db_per_octave above 100 Hz (0 white, 3 pink, 6 brown)."""
    size = smooth_size(count)
    spectrum = np.fft.rfft(rng.standard_normal(size))
    octaves = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / RATE), 100.0) / 100.0)
    spectrum *= 10.0 ** (-slope_db_per_octave * octaves / 20.0)
    noise = np.fft.irfft(spectrum, size)[:count]
    return noise / np.sqrt(np.mean(noise**2))


def tilt(x: np.ndarray, coefficient: float) -> np.ndarray:
    """Spectral tilt y[t] = x[t] + coefficient * x[t-1]: positive is duller, negative brighter."""
    out = x.copy()
    out[1:] += coefficient * x[:-1]
    return out / (1.0 + abs(coefficient))


def band_limit(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """x (T,) as a microphone hears it that loses 3 dB at low and at high Hz, 12 and 24 dB per octave beyond, no phase."""
    size = smooth_size(len(x))
    frequency = np.fft.rfftfreq(size, 1 / RATE)
    gain = 1.0 / np.sqrt(1.0 + (low / np.maximum(frequency, 1.0)) ** 4) / np.sqrt(1.0 + (frequency / high) ** 8)
    return np.fft.irfft(np.fft.rfft(x, size) * gain, size)[: len(x)]


def level(x: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(x**2))) if len(x) else 0.0


def speech_span(x: np.ndarray, floor: float = 0.003) -> tuple[int, int]:
    """First and one past the last 5 ms frame whose peak reaches floor times the peak of x, in samples; 30 ms margins."""
    frame, margin = RATE // 200, RATE * 3 // 100
    peaks = np.abs(x[: len(x) // frame * frame]).reshape(-1, frame).max(axis=1)
    loud = np.flatnonzero(peaks >= floor * peaks.max())
    return max(0, int(loud[0]) * frame - margin), min(len(x), (int(loud[-1]) + 1) * frame + margin)


def wav_bytes(x: np.ndarray) -> bytes:
    """16 kHz 16-bit mono WAV of x in [-1, 1]; louder samples are clipped."""
    data = np.clip(np.round(x * 32767.0), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(data.tobytes())
    return buffer.getvalue()
