"""Pictures: photographs, stamps, Fashion-MNIST, and opening what a user has."""
