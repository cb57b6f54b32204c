"""Screening: which items a first stage of few passes keeps, and what may be said of the rest. Knows no runs and no models."""
