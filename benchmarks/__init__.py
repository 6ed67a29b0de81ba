"""Measurements of a running server. They are programs to run by hand; tests hold looser bounds."""
