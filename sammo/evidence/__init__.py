"""Why and for how long: measurements beyond error rates over chunk widths, on trained models."""
