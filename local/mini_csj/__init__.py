"""Helpers of make_mini_csj.py: a small synthetic corpus in the disc layout of the Corpus of Spontaneous Japanese."""
