"""Pairs: given in a study, a table or a file, checked row by row; their tokens."""
