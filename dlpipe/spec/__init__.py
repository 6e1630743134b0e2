"""What a user may declare, as typed and frozen models. Nothing here imports torch."""
