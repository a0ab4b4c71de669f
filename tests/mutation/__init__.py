"""Mutation tests: `make test-mutation` changes one thing in our code at a time; some test must notice."""
