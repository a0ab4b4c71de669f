"""The tables of a recipe, one file a topic; `pipeline.recipe` puts them together."""
