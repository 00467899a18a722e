"""AirNet in plain PyTorch: the network, its operator, and its files. Nothing here knows BasicSR."""
