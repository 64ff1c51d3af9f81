"""Questions about composed pictures, put to the embedded model under every method."""
