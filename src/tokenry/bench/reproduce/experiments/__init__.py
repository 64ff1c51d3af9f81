"""One module per reproduced system."""
