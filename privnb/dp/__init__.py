"""Differentially private SQL. Pure: no files, no network, no clock."""
