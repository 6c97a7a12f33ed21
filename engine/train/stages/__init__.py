"""The stages of training: trained weights, batches and losses."""
