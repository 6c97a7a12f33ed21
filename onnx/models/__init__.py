"""Exported models that ship with varfix, as package data."""
