"""Bytes in chunks, on a local disk or at a URL: layouts, readers, writers, locks. Knows neither items nor models."""
