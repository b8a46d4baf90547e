"""Whose keys a weight file has, what network it holds, and conversion between libraries."""
