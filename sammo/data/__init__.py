"""Corpus in, batches out: output units, transcripts, features, augmentation and the data module."""
