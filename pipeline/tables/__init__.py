"""The tables of `deploy.toml`, by what they speak of. `pipeline.recipe` puts them together."""
