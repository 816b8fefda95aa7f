"""Pretrained models, in and out (filled by the zoo issue)."""
