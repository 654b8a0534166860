"""Evaluation of a trained model on the clips of a data set.

``jobs`` lists what is to be done, ``clip_evaluator`` does one job, ``frame_scores`` scores its frames, and
``scorers`` holds the networks that this takes.
"""
