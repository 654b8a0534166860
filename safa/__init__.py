"""Structure-aware face animation: the model, its data, its training and its use. Never imports Ray."""
