"""Foundry's tokenizers, corpora, shards and rows."""
