"""Data: videos in, clips as Parquet rows, frames and landmarks out again."""
