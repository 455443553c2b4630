"""The only room that knows Kafka: wire codec, columnar consumer and producer, transaction, topics, local broker."""
