"""How nodes speak: messages, their bytes, the node that handles them, and what they are checked for."""
