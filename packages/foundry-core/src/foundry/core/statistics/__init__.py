"""Decisions from noisy runs: how much seeds differ, when a difference is decided, what can be decided at all."""
