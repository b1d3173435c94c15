"""The console: pages for a browser, made on the server from what the person who looks may read."""
