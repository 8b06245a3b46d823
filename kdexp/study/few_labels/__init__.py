"""The study `few_labels`: how many labelled rows a teacher is worth."""
