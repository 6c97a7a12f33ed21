"""Cards of models that tests share."""

from varfix.engine.models.card import ModelCard

GUIDED = ModelCard(
    name="guided",
    licence="CC0-1.0",
    tile=64,
    multiple=16,
    overlap=16,
    guidance="image",
    thumbnail=32,
    prior_channels=2,
)
