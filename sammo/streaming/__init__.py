"""Recognition while the audio arrives: features, audio files, concurrent streams, proof of parity."""
