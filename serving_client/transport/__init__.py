"""Send calls to the servers behind one name: resolve it, choose a server, retry, and hedge."""
