"""Weight files as bytes: containers read without running code from them, and written."""
