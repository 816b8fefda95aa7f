"""What every training is measured by, whatever it is scored on."""

from foundry.core.contracts import Metric

METRICS = [
    Metric("val_loss", "nats", per_token=True, summary="mean cross-entropy of a held-out token"),
    Metric("val_bpb", "bits per byte", summary="the same for a byte of text, whatever the tokenizer"),
    Metric("train_loss", "nats", per_token=True, summary="what training minimised in the last step that was logged"),
    Metric("tokens_per_second", "tokens/s", higher_is_better=True, summary="in training"),
]
