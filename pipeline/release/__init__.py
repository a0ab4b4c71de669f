"""From evidence to a verdict and a report."""
