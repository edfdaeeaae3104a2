"""pipeline: a document through one service after another, starting at any of them."""
