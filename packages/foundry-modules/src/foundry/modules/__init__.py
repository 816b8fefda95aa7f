"""Foundry's built-in variants: attention, ffn, norm, activation, position, loss, optimizer, schedule."""
