"""The intervenable model: the Python API around any module."""
