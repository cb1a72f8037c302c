"""What the service costs, as ratios to a bare FastAPI route measured in the same call."""
