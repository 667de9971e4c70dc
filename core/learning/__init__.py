"""How a model bundle comes to be: pair sets, features, training and evaluation."""
