"""What a training run writes for people: metrics, curves, sample sheets."""
