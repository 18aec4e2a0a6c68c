"""Reading data sets: image lists, labels, folder layouts, resizing to the model input."""
