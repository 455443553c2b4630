"""streamsample makes training data from Kafka event streams."""
