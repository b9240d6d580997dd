"""The record in Parquet files, for longer than the store keeps it."""
