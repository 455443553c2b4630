"""What the service reaches, each figure beside its reference, against a real broker: see docs/performance.md."""
