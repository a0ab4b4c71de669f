"""What ships beside a model: `declared.json`, and loaders in Python and C++ that do what it says."""
