"""The replicated binlog on real nats-servers."""
