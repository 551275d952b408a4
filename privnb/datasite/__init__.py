"""The PySyft adapter: the only room that imports ``syft``."""
