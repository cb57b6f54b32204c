"""Bytes in chunks, on a local disk or at a URL: layouts, readers, writers. Knows neither items nor models."""
