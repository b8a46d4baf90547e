"""Random crops and photometric changes, and the transform lists of a config."""
