"""Questions about pictures, put to any model that reads pictures, under every method; what was answered is kept."""
