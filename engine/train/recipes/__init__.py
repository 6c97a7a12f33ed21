"""Training recipes and the code that reads them."""
