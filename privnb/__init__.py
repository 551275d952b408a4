"""Notebook cells that compute on data which stays with its owners."""
