"""Stages of a study: each folder is one kind of work, from what is left to do to its files."""
