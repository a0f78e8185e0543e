"""Recipes: how the shipped weights were made. Not part of the installed package."""
