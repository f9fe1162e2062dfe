"""Live transcription for many clients: a page, and the APIs that speech clients speak. See docs/serving.md."""
