"""Prepared shards to padded batches on the training device."""
