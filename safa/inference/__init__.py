"""Using a trained model: motion transfer, animation of a stream of frames, evaluation of clips."""
