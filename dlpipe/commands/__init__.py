"""The commands of `dlpipe`, thin: each parses, calls one function, prints."""
