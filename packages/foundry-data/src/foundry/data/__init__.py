"""Foundry's tokenizers, corpora, shards and rows. Nothing here imports torch.

params.py     the section `data` of the experiment file and its slots
corpora/      where text comes from: the slot `dataset`
tokenize/     text to ids: the slot `tokenizer`
split.py      which text is held out
prepare.py    a corpus, tokenized once into the cache ...
shards.py     ... as memory-mapped files with a manifest
rows.py       what the trainer reads: row k is a pure function of (fingerprint, seed, k)
feistel.py    the shuffle
storage.py    the cache folder; writing whole files or none
"""
