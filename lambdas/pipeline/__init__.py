"""pipeline: a document through one service after another, entered at any of them."""
