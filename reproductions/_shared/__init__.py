"""What reproductions of several rooms use."""
