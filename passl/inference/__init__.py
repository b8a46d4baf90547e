"""Using a trained network: build or load it, then classify, embed, cluster or measure images of any kind."""
