"""What `pytest --benchmark` runs; README.md beside this file says how to read its report."""
