"""What prepares a corpus: features, output units, checks and statistics, and recordings of one's own."""
