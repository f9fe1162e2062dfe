"""What the encoder's memory carries: decoding with parts of it removed."""
