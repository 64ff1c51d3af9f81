"""Networks that spend more on some tokens than on others: layers of trained models replaced by adaptive ones."""
