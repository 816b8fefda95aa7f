"""Foundry's evaluation tasks."""
