"""Foundry's custom operators behind torch.library."""
