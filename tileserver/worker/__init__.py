"""The part of the server that runs UDF code, in child processes only."""
