"""What each stage trains, from which batches, by which losses."""
