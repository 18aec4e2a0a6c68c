"""Fine-tunes an int8 network in the arithmetic of the board, with the float network as teacher."""
