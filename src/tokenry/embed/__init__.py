"""From many tokens to one vector: representations that texts are searched and compared with."""
