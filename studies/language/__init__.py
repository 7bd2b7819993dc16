"""The language of study files: parts and their keys, checks across them, and the cells of a sweep."""
