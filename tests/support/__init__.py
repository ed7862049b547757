"""What the tests share: nets, commands, draws, the float64 oracle, and the table of layers."""
