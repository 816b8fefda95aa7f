"""Foundry's contracts, registry, experiment files, model, trainer, checkpoints."""
