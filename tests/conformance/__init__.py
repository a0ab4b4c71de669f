"""One suite that every target passes, and that names none."""
