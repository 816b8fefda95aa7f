"""The foundry command."""
